"""Lower precisions: fp16 and int8."""
