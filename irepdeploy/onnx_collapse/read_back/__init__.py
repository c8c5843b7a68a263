"""Read an ONNX graph back as a torch module."""
