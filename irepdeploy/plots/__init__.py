"""Pictures of what a run found. Each function gives a matplotlib figure; `save_figure` writes it."""
