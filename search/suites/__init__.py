"""Benchmark suites of the search, run by `irepdeploy bench --suite`."""
