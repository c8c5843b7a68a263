"""Checks of the machine: cores, memory, disk, and the facts of a Jetson."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from irepdeploy.board.board_files import BoardFiles
from irepdeploy.board.jetpack import TEGRA_RELEASE, jetpack_of, parse_tegra_release
from irepdeploy.board.nvpmodel import current_mode
from irepdeploy.board.system import system_block
from irepdeploy.doctor.check import Check, one_line

__all__ = ["NEVER_PIP", "has_gpu", "is_jetson", "jetson", "machine"]

NEVER_PIP = "never pip install tensorrt here: it is part of JetPack"

_HERE = BoardFiles()
_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
_GPU_DEVICES = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg")
_LITTLE = 2 * 2**30


def jetson() -> list[Check]:
    """Check L4T, JetPack, trtexec and the power mode; return no rows on other machines."""
    if not is_jetson():
        return []
    trtexec = Check("trtexec", _TRTEXEC)
    if not _HERE.find(_TRTEXEC):
        trtexec = Check("trtexec", "-", "missing", f"not at {_TRTEXEC}", "sudo apt-get install nvidia-jetpack")
    return [_jetpack(_HERE.read(TEGRA_RELEASE)), trtexec, _power_mode()]


def machine() -> list[Check]:
    """Check cores, memory and disk."""
    system = system_block()
    temporary = Path(tempfile.gettempdir())
    disks = [_disk("disk here", Path.cwd()), _disk("disk for temporary files", temporary)]
    return [_cores(system["cpu"]), _memory(system["memory"]), *disks]


def has_gpu() -> bool:
    """Return whether an NVIDIA device node exists, whether or not it is usable."""
    return any(_HERE.find(device) for device in _GPU_DEVICES)


def is_jetson() -> bool:
    """Return whether this is a Jetson, judging by the release file of L4T."""
    return bool(_HERE.find(TEGRA_RELEASE))


def _jetpack(release: str) -> Check:
    l4t = parse_tegra_release(release)
    if l4t is None:
        return Check("Jetson", "unknown", "warning", f"{TEGRA_RELEASE} says {one_line(release)}; {NEVER_PIP}")
    found = jetpack_of(l4t)
    if found is None:
        return Check("Jetson", f"L4T {l4t}", "warning", f"not a JetPack that irepdeploy knows; {NEVER_PIP}")
    target = f"target {found.target}" if found.target else "no target supports it"
    note = f"its TensorRT is {found.tensorrt}; {target}; {NEVER_PIP}"
    return Check("Jetson", f"L4T {l4t}, JetPack {found.name}", "ok" if found.target else "warning", note)


def _power_mode() -> Check:
    row = partial(Check, "power mode", note="an engine is tuned for the clocks of the mode in which it is built")
    mode = current_mode(_HERE)
    return row("unknown", "warning", fix="sudo nvpmodel -q") if mode is None else row(mode.name or str(mode))


def _cores(cpu: Mapping[str, Any]) -> Check:
    found = f"{cpu['affinity']} of {cpu['logical_cores']} cores"
    threads = os.environ.get("OMP_NUM_THREADS", "")
    note = cpu["model"] + (f"; OMP_NUM_THREADS={threads}" if threads else "")
    quota, usable = cpu["quota_cores"], cpu["affinity"]
    if isinstance(quota, float) and isinstance(usable, int) and quota < usable and not threads:
        fix = f"export OMP_NUM_THREADS={max(1, int(quota))}"
        return Check("CPU", found, "warning", f"{note}; the control group allows {quota:g} of them", fix)
    return Check("CPU", found, note=note)


def _memory(memory: Mapping[str, Any]) -> Check:
    sizes = [memory["total_bytes"], memory["available_bytes"]]
    if not all(isinstance(size, int) for size in sizes):
        return Check("memory", "unknown", "warning", "/proc/meminfo cannot be read")
    return _space("memory", sizes[1], sizes[0], "")


def _disk(name: str, folder: Path) -> Check:
    usage = shutil.disk_usage(folder)
    return _space(name, usage.free, usage.total, str(folder))


def _space(name: str, free: int, total: int, note: str) -> Check:
    found = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if free >= _LITTLE:
        return Check(name, found, note=note)
    return Check(name, found, "warning", f"{note} too little for large networks".strip())
