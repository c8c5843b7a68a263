"""Power of rails in the output of ``tegrastats`` of JetPack 4 to 6."""

from __future__ import annotations

import re

__all__ = ["parse_rails"]

# "GPU 463/470": now and on average, in mW, with or without the unit.
_RAIL = re.compile(r"\b([A-Za-z]\w*) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)")
_MEMORY = ("RAM", "SWAP", "IRAM")


def parse_rails(line: str) -> dict[str, float]:
    """Return the current power in mW by rail in one line."""
    return {name: float(now) for name, now in _RAIL.findall(line) if name not in _MEMORY}
