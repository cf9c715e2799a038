"""This node at the API server: registration, heartbeat, conditions, admission."""
