"""Parse lines of ``tegrastats`` of JetPack 4 to 6."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["parse_tegrastats"]

_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_CPU = re.compile(r"\bCPU \[([^\]]*)\]")
_LOAD = re.compile(r"\b(EMC_FREQ|GR3D_FREQ) (\d+)%(?:@\[?(\d+))?")
_TEMPERATURE = re.compile(r"([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
_RAIL = re.compile(r"\b([A-Za-z]\w*) (\d+)(?:mW)?/(\d+)(?:mW)?(?=\s|$)")
_FIXED = ("PMIC",)


def parse_tegrastats(line: str) -> dict[str, Any]:
    """Parse one line.

    Returns:
        ``ram_mb`` and ``ram_total_mb``; ``cpu``, a list of (load in percent, MHz) or None for a core that is off;
        ``gpu_percent``, ``gpu_mhz``, ``emc_percent``, ``emc_mhz``; ``temperatures_c`` by name; ``rails_mw`` and
        ``rails_mean_mw`` by name, now and on average since the start. Values that the line lacks are None or empty.
    """
    ram, cpu = _RAM.search(line), _CPU.search(line)
    loads = {match.group(1): (int(match.group(2)), match.group(3)) for match in _LOAD.finditer(line)}
    gpu, emc = loads.get("GR3D_FREQ", (None, None)), loads.get("EMC_FREQ", (None, None))
    rails = [match.groups() for match in _RAIL.finditer(line) if match.group(1) not in ("RAM", "SWAP", "IRAM")]
    return {
        "ram_mb": None if ram is None else int(ram.group(1)),
        "ram_total_mb": None if ram is None else int(ram.group(2)),
        "cpu": [] if cpu is None else [_core(core) for core in cpu.group(1).split(",")],
        "gpu_percent": gpu[0],
        "gpu_mhz": None if gpu[1] is None else int(gpu[1]),
        "emc_percent": emc[0],
        "emc_mhz": None if emc[1] is None else int(emc[1]),
        "temperatures_c": {name: float(value) for name, value in _TEMPERATURE.findall(line) if name not in _FIXED},
        "rails_mw": {name: int(now) for name, now, _ in rails},
        "rails_mean_mw": {name: int(mean) for name, _, mean in rails},
    }


def _core(text: str) -> tuple[int, int] | None:
    match = re.match(r"(\d+)%@(\d+)$", text.strip())
    return None if match is None else (int(match.group(1)), int(match.group(2)))
