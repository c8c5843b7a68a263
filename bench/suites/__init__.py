"""Suites of the bench: latency tables and figures of the paper, measured on this device."""
