"""Run networks in PyTorch: runners, arithmetic, memory and process-wide settings."""
