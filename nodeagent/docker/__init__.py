"""The Docker Engine: calls, labels, what it is asked to create, images."""
