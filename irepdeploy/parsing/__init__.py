"""Text that people and programs hand us, parsed strictly: JSON, YAML, and values by their schema."""
