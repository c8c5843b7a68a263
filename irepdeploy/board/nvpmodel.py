"""Power modes of a Jetson, read from ``nvpmodel`` and its configuration file."""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional

from irepdeploy.board.board_files import BoardFiles
from irepdeploy.errors import IrepdeployError

__all__ = [
    "CONFIGURATION",
    "PowerMode",
    "asks_reboot",
    "current_mode",
    "known_modes",
    "needs_reboot",
    "parse_mode",
    "parse_modes",
]

CONFIGURATION = "/etc/nvpmodel.conf"

_STATUS = "/var/lib/nvpmodel/status"
# Settings that power-gate units of the GPU by a mask; they take effect only at boot.
_AT_BOOT = ("TPC_POWER_GATING", "GPU_POWER_GATING")
_MODEL = re.compile(r"POWER_MODEL:?\s+ID=(\d+)\s+NAME=(\S+)")


class PowerMode(NamedTuple):
    """A power mode: its number and, if known, its name."""

    id: int
    name: Optional[str]

    def __str__(self) -> str:
        return str(self.id) if self.name is None else f"{self.id} ({self.name})"


def current_mode(files: BoardFiles) -> Optional[PowerMode]:
    """Return the current power mode from nvpmodel, or else from its status file; None if neither has it."""
    try:
        mode = parse_mode(files.run("nvpmodel", "-q").text)
    except IrepdeployError:
        mode = None
    mode = mode or parse_mode(files.read(_STATUS))
    if mode is None or mode.name is not None:
        return mode
    names = {each.id: each.name for each in known_modes(files)}
    return PowerMode(mode.id, names.get(mode.id))


def known_modes(files: BoardFiles) -> List[PowerMode]:
    """Return all power modes of the board's configuration file."""
    return parse_modes(files.read(CONFIGURATION))


def parse_mode(text: str) -> Optional[PowerMode]:
    """Parse the output of ``nvpmodel -q`` or its status file (``pmode:0002 fmode:quiet``); None if it has no mode."""
    match = re.search(r"NV Power Mode:[ \t]*(\S[^\n]*?)\s*\n\s*(\d+)", text)
    if match is not None:
        return PowerMode(int(match.group(2)), match.group(1))
    match = re.search(r"\bpmode:(\d+)", text)
    return None if match is None else PowerMode(int(match.group(1)), None)


def parse_modes(text: str) -> List[PowerMode]:
    """Parse all modes from the output of ``nvpmodel -p --verbose`` or from the configuration file."""
    found = {int(match.group(1)): match.group(2) for match in _MODEL.finditer(text)}
    return [PowerMode(number, name) for number, name in sorted(found.items())]


def needs_reboot(configuration: str, now: int, wanted: int) -> Optional[bool]:
    """Return whether switching from mode `now` to mode `wanted` requires a reboot; None if the file does not say.

    A reboot is required if the modes differ in what is power-gated at boot. `asks_reboot` additionally checks the
    answer of nvpmodel itself.
    """
    gates = _gates(configuration)
    if now not in gates or wanted not in gates:
        return None
    return gates[now] != gates[wanted]


def asks_reboot(text: str) -> bool:
    """Return whether the output of ``nvpmodel -m`` says that the switch requires a reboot."""
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
