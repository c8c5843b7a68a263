"""Stage export: from a checkpoint to a fused network, ONNX and an engine, with every hop verified."""
