from __future__ import annotations

from support.meta import meta

__all__ = ["meta"]
