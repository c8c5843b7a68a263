"""Suites of the bench: latency tables and figures of the paper, on the device at hand."""
