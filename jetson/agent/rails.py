"""Power by rail, from the module's INA3221 monitors under JetPack 4 (iio) and JetPack 5 and later (hwmon).

The monitors measure the rails of the module, without the carrier board and its devices. An AGX Xavier has two monitors
with six rails and no input rail; on boards that have an input rail, it is called VDD_IN or similar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from irepdeploy.board.board_files import BoardFiles

__all__ = ["Rail", "RailReader", "module_mw", "parse_rails"]

# Channel 7 of hwmon is a sum of shunt voltages, not a rail.
_CHANNELS = (1, 2, 3)
_UNUSED = ("", "NC")
# Rails that feed all other rails and therefore equal their sum.
_INPUTS = ("VDD_IN", "POM_5V_IN")
# "GPU 463/470": current and average power in mW, with or without the unit.
_RAIL = re.compile(r"\b([A-Za-z]\w*) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)")
_MEMORY = ("RAM", "SWAP", "IRAM")


class Rail(NamedTuple):
    """A rail and the files of its power in mW, or of its voltage in mV and its current in mA."""

    name: str
    power: str | None
    voltage: str | None = None
    current: str | None = None


class RailReader:
    """Reads the power of every rail. Their files are looked up only once."""

    def __init__(self, files: BoardFiles) -> None:
        self._files = files
        self.rails: list[Rail] = []
        for name in files.find("/sys/bus/i2c/devices/*/name"):
            if files.read(name).startswith("ina3221"):
                folder = name.rsplit("/", 1)[0]
                self.rails += self._of_iio(folder) or self._of_hwmon(folder)

    def read(self) -> dict[str, float]:
        """Return mW by rail, omitting rails that cannot be read."""
        found = {rail.name: self._power_mw(rail) for rail in self.rails}
        return {name: power for name, power in found.items() if power is not None}

    def _of_iio(self, folder: str) -> list[Rail]:
        rails = []
        for label in self._files.find(folder + "/iio:device*/rail_name_[0-2]"):
            device, number = label.rsplit("/rail_name_", 1)
            rails.append(Rail(self._files.read(label), f"{device}/in_power{number}_input"))
        return [rail for rail in rails if rail.name not in _UNUSED]

    def _of_hwmon(self, folder: str) -> list[Rail]:
        rails = []
        for device in self._files.find(folder + "/hwmon/hwmon*"):
            for channel in _CHANNELS:
                label = self._files.read(f"{device}/in{channel}_label")
                rails.append(Rail(label, None, f"{device}/in{channel}_input", f"{device}/curr{channel}_input"))
        return [rail for rail in rails if rail.name not in _UNUSED]

    def _power_mw(self, rail: Rail) -> float | None:
        if rail.power is not None:
            power = self._files.number(rail.power)
            return None if power is None else float(power)
        voltage, current = self._files.number(rail.voltage or ""), self._files.number(rail.current or "")
        return None if voltage is None or current is None else voltage * current / 1000


def module_mw(rails_mw: Mapping[str, float]) -> float | None:
    """Return the power of the module: its input rail, else the sum of all rails; None without rails."""
    for name in _INPUTS:
        if name in rails_mw:
            return rails_mw[name]
    return sum(rails_mw.values()) if rails_mw else None


def parse_rails(line: str) -> dict[str, float]:
    """Return the current power in mW by rail in one line of ``tegrastats`` of JetPack 4 to 6."""
    return {name: float(now) for name, now in _RAIL.findall(line) if name not in _MEMORY}
