"""Measure the cost of a network (parameters, MACs, training time, memory) and its numerical health."""
