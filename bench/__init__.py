"""Stage bench: what a network costs on the machine at hand."""
