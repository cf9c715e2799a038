"""What nodeagent reads from and tells the API server."""
