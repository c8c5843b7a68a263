"""The export stage: checkpoint, fused network, ONNX, engine, each hop proved equal."""
