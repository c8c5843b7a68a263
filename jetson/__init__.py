"""Stage jetson: an agent that runs on the board, and its counterpart on this machine, the desk, over ssh."""
