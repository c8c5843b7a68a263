"""The search stage: supernet, directional evolutionary strategy, training."""
