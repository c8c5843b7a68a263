"""Re-parameterization: branches beside a convolution, and their exact fuse into it."""
