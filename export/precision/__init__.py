"""fp16 and int8."""
