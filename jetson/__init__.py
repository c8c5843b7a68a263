"""The jetson stage: an agent for the board, and the desk's side over ssh."""
