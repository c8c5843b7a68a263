"""Export requests."""
