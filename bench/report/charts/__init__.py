"""Charts of the report, drawn as SVG in the colours of the page."""
