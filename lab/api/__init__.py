"""A development stand-in for the Kubernetes control plane, for the lab and the tests only."""
