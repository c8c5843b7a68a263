"""Compare models, load inputs for the comparison, and certify the result."""
