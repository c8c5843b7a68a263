"""Run folders, devices, ranks and loops."""
