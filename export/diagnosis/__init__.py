"""Find what a target rejects, and the first layer that differs."""
