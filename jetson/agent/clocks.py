"""Clocks of GPU, memory and CPU in Hz, from sysfs or, for the memory, from ``jetson_clocks --show``."""

from __future__ import annotations

import re
from typing import Any

from irepdeploy.board.board_files import BoardFiles

__all__ = ["ClockReader", "parse_memory_clock"]

_FIELD = re.compile(r"(\w+)=(\S+)")
# Names of the GPUs of AGX Xavier, TX2, Nano, Orin and later boards.
_GPUS = ("gv11b", "gp10b", "gm20b", "ga10b", "gb10b", "gpu")
_EMC = "/sys/kernel/debug/bpmp/debug/clk/emc"
_CPU = "/sys/devices/system/cpu"


class ClockReader:
    """Reads clocks. Their files are looked up only once, because clocks are read during measurements."""

    def __init__(self, files: BoardFiles) -> None:
        self._files = files
        self._gpu = self._find_gpu()
        self._cpus = [path for path in files.find(_CPU + "/cpu[0-9]*") if path.rsplit("cpu", 1)[-1].isdigit()]
        self._cpus.sort(key=lambda path: int(path.rsplit("cpu", 1)[-1]))

    def read(self) -> dict[str, Any]:
        """Return ``gpu`` and ``emc`` (None if they cannot be read) and ``cpu``, a list."""
        return {"gpu": self._devfreq(), "emc": self._emc(), "cpu": [self._cpu(path) for path in self._cpus]}

    def gpu_hz(self) -> int | None:
        """Return the current clock of the GPU."""
        return None if self._gpu is None else self._files.number(self._gpu + "/cur_freq")

    def cpu_hz(self) -> int | None:
        """Return the highest current clock of any core."""
        found = [self._files.number(path + "/cpufreq/scaling_cur_freq") for path in self._cpus]
        known = [khz for khz in found if khz is not None]
        return max(known) * 1000 if known else None

    def pinned_gpu_hz(self) -> int | None:
        """Return the clock at which the GPU is locked, or None if it may change."""
        gpu = self._devfreq()
        return gpu["max_hz"] if gpu and gpu["min_hz"] == gpu["max_hz"] else None

    def _find_gpu(self) -> str | None:
        folders = self._files.find("/sys/class/devfreq/*")
        for kind in _GPUS:
            for folder in folders:
                if folder.endswith(kind):
                    return folder
        return None

    def _devfreq(self) -> dict[str, int | None] | None:
        if self._gpu is None:
            return None
        return {f"{new}_hz": self._files.number(f"{self._gpu}/{old}_freq") for new, old in _NAMES}

    def _emc(self) -> dict[str, int | None] | None:
        rate = self._files.number(_EMC + "/rate")
        if rate is None:
            return None
        limits = {f"{name}_hz": self._files.number(f"{_EMC}/{name}_rate") for name in ("min", "max")}
        return {"current_hz": rate, **limits}

    def _cpu(self, path: str) -> dict[str, Any]:
        read: dict[str, Any] = {"cpu": int(path.rsplit("cpu", 1)[-1])}
        # The first core of some boards cannot be taken offline and has no such file.
        read["online"] = self._files.read(path + "/online") != "0"
        read["governor"] = self._files.read(path + "/cpufreq/scaling_governor") or None
        for new, old in _NAMES:
            khz = self._files.number(f"{path}/cpufreq/scaling_{old}_freq")
            read[f"{new}_hz"] = None if khz is None else khz * 1000
        return read


_NAMES = (("current", "cur"), ("min", "min"), ("max", "max"))


def parse_memory_clock(text: str) -> dict[str, int | None] | None:
    """Return the memory's clock in the output of ``jetson_clocks --show``, in the form of `ClockReader.read`."""
    line = next((line for line in text.splitlines() if line.startswith("EMC ")), "")
    fields = dict(_FIELD.findall(line))
    if "MaxFreq" not in fields:
        return None
    names = (("current_hz", "CurrentFreq"), ("min_hz", "MinFreq"), ("max_hz", "MaxFreq"))
    return {new: int(fields[old]) if fields.get(old, "").isdigit() else None for new, old in names}
