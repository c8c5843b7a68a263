"""Report: what records say, as one page that needs nothing else."""
