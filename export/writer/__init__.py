"""Write a torch network as ONNX."""
