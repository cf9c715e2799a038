"""A client of the Kubernetes API: list, watch, fail over."""
