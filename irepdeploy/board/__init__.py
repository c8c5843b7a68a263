"""Everything that runs on the board too: Python 3.8, the standard library and numpy."""
