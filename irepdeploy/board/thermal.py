"""Temperatures of the thermal zones that the kernel reports."""

from __future__ import annotations

from typing import Dict, List, Tuple

from irepdeploy.board.board_files import BoardFiles

__all__ = ["ThermalReader"]

# The zone of the power controller always reads 100 C and measures nothing.
_FIXED = ("PMIC-Die",)


class ThermalReader:
    """Reader of all thermal zones, which are looked up once."""

    def __init__(self, files: BoardFiles) -> None:
        self._files = files
        self._zones: List[Tuple[str, str]] = []
        for path in files.find("/sys/class/thermal/thermal_zone*/type"):
            name = files.read(path)
            if name and name not in _FIXED:
                self._zones.append((_short(name), path.rsplit("/", 1)[0] + "/temp"))

    def read(self) -> dict[str, float]:
        """Return the temperature of each active zone in degrees Celsius; for zones of equal name, the highest one."""
        found: Dict[str, float] = {}
        for name, path in self._zones:
            millidegrees = self._files.number(path)
            # A sensor that is off reports an impossibly low temperature.
            if millidegrees is not None and millidegrees > -100_000:
                found[name] = max(millidegrees / 1000, found.get(name, -100.0))
        return found


def _short(name: str) -> str:
    for ending in ("-therm", "-thermal"):
        if name.endswith(ending):
            return name[: -len(ending)]
    return name
