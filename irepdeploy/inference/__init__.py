"""Detectors on image files: open one, run it, and gather what it found."""
