"""Probes: checks, their thresholds, and the tasks that repeat them."""
