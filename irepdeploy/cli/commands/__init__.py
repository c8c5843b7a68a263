"""Commands of the core; each parses its arguments, makes one call and prints the result."""
