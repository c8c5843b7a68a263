"""Code that also runs on the board: Python 3.8 with the standard library and numpy."""
