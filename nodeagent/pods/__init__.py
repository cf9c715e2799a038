"""Pods: what they are, what they need next, and the workers that see to it."""
