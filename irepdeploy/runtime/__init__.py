"""Runners and how a latency is measured.

All but those of torch are Python 3.8 and need nothing but numpy and what they run: the board's agent carries them as
they are. This file imports nothing for the same reason.
"""
