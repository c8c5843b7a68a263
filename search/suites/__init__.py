"""Suites of the search: what `irepdeploy bench --suite` measures of it."""
