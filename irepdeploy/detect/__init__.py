"""Object detection: detectors and their parts, their targets and results, and the metric of COCO."""
