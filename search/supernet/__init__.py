"""The supernet and its search space."""
