"""Open, check, view, digest and describe ONNX files."""
