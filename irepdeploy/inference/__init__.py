"""Running detectors on image files: opening a detector, running it, and collecting its detections."""
