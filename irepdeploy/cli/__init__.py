"""The `irepdeploy` program and its commands."""

from __future__ import annotations

from irepdeploy.cli.program import main

__all__ = ["main"]
