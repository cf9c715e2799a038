"""The kubelet's HTTP server: pods, logs, commands, figures."""
