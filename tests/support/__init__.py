"""Real helpers that several test tiers use."""
