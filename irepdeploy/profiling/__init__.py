"""Cost of a network in parameters, MACs, training time and memory, and its numerical health."""
