"""Networks by name and on disk."""
