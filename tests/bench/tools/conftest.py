"""A small search for the tools that measure it."""

from __future__ import annotations

from support.tiny import tiny, tiny_overrides

__all__ = ["tiny", "tiny_overrides"]
