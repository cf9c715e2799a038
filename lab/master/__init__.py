"""The control plane of a cluster on hosts of one's own: certificates, manifests, first boot."""
