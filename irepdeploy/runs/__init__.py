"""Files that a run leaves behind, one schema each."""
