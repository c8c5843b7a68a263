"""The registry of networks."""

from __future__ import annotations

from irepdeploy.network.nets.registry import NETS, build, build_plain

__all__ = ["NETS", "build", "build_plain"]
