"""The tools that measure the search run it small."""

from __future__ import annotations

from support.tiny import tiny, tiny_overrides

__all__ = ["tiny", "tiny_overrides"]
