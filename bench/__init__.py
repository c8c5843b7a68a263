"""Stage bench: measure the cost of networks on this machine."""
