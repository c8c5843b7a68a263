"""Re-parameterization: insert branches beside convolutions and fuse them exactly."""
