"""Strict parsers of JSON, JSON lines and YAML, and validation of values against a schema."""
