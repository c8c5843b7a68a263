"""Compare models, load the inputs for it, and certify the result."""
