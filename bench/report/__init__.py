"""Report: the results of records as one self-contained page."""
