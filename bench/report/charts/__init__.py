"""Charts of the report, drawn as SVG that takes its colours from the page."""
