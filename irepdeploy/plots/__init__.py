"""Pictures of the results of a run. Each drawing function returns a matplotlib figure, which `save_figure` writes."""
