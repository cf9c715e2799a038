"""Where pods come from: manifests and the API server."""
