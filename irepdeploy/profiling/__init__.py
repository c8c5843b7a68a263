"""What a network costs: to train, in time and memory, and in parameters."""
