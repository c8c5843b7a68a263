"""Networks by name."""

from __future__ import annotations

from irepdeploy.nets.registry import NETS, build

__all__ = ["NETS", "build"]
