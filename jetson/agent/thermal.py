"""Temperatures, by the kernel's thermal zones.

Python 3.8, stdlib only: the board's agent carries this module.
"""

from __future__ import annotations

from .board_files import BoardFiles

__all__ = ["ThermalReader"]

# The power controller's zone answers 100 C always; it measures nothing.
_FIXED = ("PMIC-Die",)


class ThermalReader:
    """Reads all zones; where they lie is looked up once."""

    def __init__(self, files: BoardFiles) -> None:
        self._files = files
        self._zones = []
        for path in files.find("/sys/class/thermal/thermal_zone*/type"):
            name = files.read(path)
            if name and name not in _FIXED:
                self._zones.append((_short(name), path.rsplit("/", 1)[0] + "/temp"))

    def read(self) -> dict[str, float]:
        """Degrees Celsius by zone; a zone that gives none now (its unit is off) is left out."""
        found = {}
        for name, path in self._zones:
            millidegrees = self._files.number(path)
            # A sensor that is off says so by a number far below anything that can be.
            if millidegrees is not None and millidegrees > -100_000:
                found[name] = millidegrees / 1000
        return found


def _short(name: str) -> str:
    for ending in ("-therm", "-thermal"):
        if name.endswith(ending):
            return name[: -len(ending)]
    return name
