"""Files that a run leaves behind, one schema each."""

from __future__ import annotations

__all__ = ["TOP_5"]

# A figure of classification with more than ten classes, which tables have a column for. It stands here because reports
# need it without torch, and tasks without pydantic.
TOP_5 = "top-5 accuracy"
