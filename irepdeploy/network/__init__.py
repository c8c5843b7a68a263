"""Build networks by name, and save and load them."""
