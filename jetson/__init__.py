"""The jetson stage: the board's agent and the ssh side."""
