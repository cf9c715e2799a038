"""Volumes of pods: made ready on the host, bound into containers, cleaned away."""
