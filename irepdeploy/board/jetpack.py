"""Releases of L4T, the operating system of a Jetson, and the JetPack releases they belong to."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

__all__ = ["TEGRA_RELEASE", "Jetpack", "L4t", "jetpack_of", "parse_tegra_release"]

TEGRA_RELEASE = "/etc/nv_tegra_release"


class L4t(NamedTuple):
    """An L4T release, such as 35.4.1; `rest` is everything after the second number, including the dot."""

    major: int
    minor: int
    rest: str

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}{self.rest}"


class Jetpack(NamedTuple):
    """A JetPack release, its TensorRT version, and its export target ("" if there is none)."""

    name: str
    tensorrt: str
    target: str


# First and last L4T (major, minor) of each JetPack, from NVIDIA's release notes.
_JETPACKS = (
    ((32, 6), (32, 6), Jetpack("4.6", "8.0.1", "")),
    ((32, 7), (32, 7), Jetpack("4.6.1 or newer", "8.2.1", "")),
    ((35, 1), (35, 1), Jetpack("5.0.2", "8.4.1", "")),
    ((35, 2), (35, 6), Jetpack("5.1", "8.5.2", "xavier-jp5")),
    ((36, 3), (36, 3), Jetpack("6.0", "8.6.2", "orin-jp6")),
    ((36, 4), (36, 5), Jetpack("6.1 or newer", "10.3", "orin-jp6")),
    ((38, 0), (39, 99), Jetpack("7", "10.13 or newer", "")),
)


def parse_tegra_release(text: str) -> Optional[L4t]:
    """Parse the L4T release in the text of ``/etc/nv_tegra_release``; return None if there is none."""
    match = re.search(r"R(\d+) \(release\), REVISION: (\d+)((?:\.\d+)*)", text)
    return None if match is None else L4t(int(match.group(1)), int(match.group(2)), match.group(3))


def jetpack_of(l4t: L4t) -> Optional[Jetpack]:
    """Return the JetPack that contains an L4T release, or None if it is unknown."""
    for first, last, jetpack in _JETPACKS:
        if first <= (l4t.major, l4t.minor) <= last:
            return jetpack
    return None
