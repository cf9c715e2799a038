"""The control plane on hosts of one's own, as plans and files."""
