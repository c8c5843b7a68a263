"""Commands of the core: each parses, makes one call, prints."""
