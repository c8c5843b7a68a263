"""Power modes of a Jetson, from what ``nvpmodel`` says and from its configuration.

This module is Python 3.8, stdlib only: the board's agent carries it.
"""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional

__all__ = ["CONFIGURATION", "STATUS", "PowerMode", "asks_reboot", "needs_reboot", "parse_mode", "parse_modes"]

CONFIGURATION = "/etc/nvpmodel.conf"
STATUS = "/var/lib/nvpmodel/status"

# What is gated at boot alone: units of the GPU, by masks that a mode sets.
_AT_BOOT = ("TPC_POWER_GATING", "GPU_POWER_GATING")
_MODEL = re.compile(r"POWER_MODEL:?\s+ID=(\d+)\s+NAME=(\S+)")


class PowerMode(NamedTuple):
    """A mode: its number, and its name where that is known."""

    id: int
    name: Optional[str]

    def __str__(self) -> str:
        return str(self.id) if self.name is None else f"{self.id} ({self.name})"


def parse_mode(text: str) -> Optional[PowerMode]:
    """The mode that ``nvpmodel -q`` prints, or the status file holds (``pmode:0002 fmode:quiet``); None if none."""
    match = re.search(r"NV Power Mode:[ \t]*(\S[^\n]*?)\s*\n\s*(\d+)", text)
    if match is not None:
        return PowerMode(int(match.group(2)), match.group(1))
    match = re.search(r"\bpmode:(\d+)", text)
    return None if match is None else PowerMode(int(match.group(1)), None)


def parse_modes(text: str) -> List[PowerMode]:
    """All modes, by ``nvpmodel -p --verbose`` or by the configuration file."""
    found = {int(match.group(1)): match.group(2) for match in _MODEL.finditer(text)}
    return [PowerMode(number, name) for number, name in sorted(found.items())]


def needs_reboot(configuration: str, now: int, wanted: int) -> Optional[bool]:
    """Whether a switch between two modes takes effect at the next boot only; None where the file does not tell.

    It does where they differ in what is gated at boot. `asks_reboot` is the second guard: nvpmodel's own word.
    """
    gates = _gates(configuration)
    if now not in gates or wanted not in gates:
        return None
    return gates[now] != gates[wanted]


def asks_reboot(text: str) -> bool:
    """Whether ``nvpmodel -m`` said that it would have to reboot."""
    return "reboot required" in text.lower() or "want to reboot" in text.lower()


def _gates(configuration: str) -> Dict[int, Dict[str, str]]:
    gates: Dict[int, Dict[str, str]] = {}
    mode = None
    for line in configuration.splitlines():
        words = line.split("#", 1)[0].split()
        match = _MODEL.search(line)
        if match is not None:
            mode = int(match.group(1))
            gates[mode] = {}
        elif line.lstrip().startswith("<"):
            mode = None
        elif mode is not None and len(words) == 3 and words[0] in _AT_BOOT:
            gates[mode][f"{words[0]} {words[1]}"] = words[2]
    return gates
