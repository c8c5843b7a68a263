"""Schemas of the files that a run writes."""

from __future__ import annotations

__all__ = ["TOP_5"]

# A figure of classification with more than ten classes, shown in its own table column. It is defined here because
# reports need it without torch, and tasks need it without pydantic.
TOP_5 = "top-5 accuracy"
