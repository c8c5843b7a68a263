"""Facts about a board, as reported by ``check``: its model, its state, and what is missing."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import shutil
import sys
from typing import Any

from irepdeploy.board.board_files import BoardFiles, sudoers_hint
from irepdeploy.board.jetpack import TEGRA_RELEASE, jetpack_of, parse_tegra_release
from irepdeploy.board.nvpmodel import CONFIGURATION, PowerMode, current_mode, known_modes, needs_reboot
from irepdeploy.board.system import load_average, memory
from irepdeploy.board.thermal import ThermalReader
from irepdeploy.errors import IrepdeployError

from .clocks import ClockReader, parse_memory_clock
from .rails import RailReader, module_mw, parse_rails

__all__ = ["board_facts", "board_state", "may_switch"]

# Programs that set power modes and clocks.
PROGRAMS = ("nvpmodel", "jetson_clocks")
# Invocations of these that change nothing.
_HARMLESS = (("nvpmodel", "-q"), ("jetson_clocks", "--show"))

_LITTLE = 2 << 30
_JETPACK = "sudo apt-get install nvidia-jetpack (never pip install tensorrt here)"
_DLA = "/sys/devices/{}*.host1x/*.nvdla[0-9]"
_HOST1X = ("", "platform/", "platform/bus@0/")


def board_facts(files: BoardFiles, libraries: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return everything that `check` reports except the system block; unknown values are None."""
    l4t = parse_tegra_release(files.read(TEGRA_RELEASE))
    jetpack = None if l4t is None else jetpack_of(l4t)
    mode = current_mode(files)
    disk = shutil.disk_usage(_existing(folder))
    rails, total = _rails(files), memory(files)["total_bytes"]
    facts = {
        "jetson": l4t is not None,
        "board": _model(files),
        "l4t": None if l4t is None else str(l4t),
        "jetpack": None if jetpack is None else jetpack.name,
        "jetpack_tensorrt": None if jetpack is None else jetpack.tensorrt,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "os": _system_name(files),
        "python": platform.python_version(),
        "python_path": sys.executable,
        **libraries,
        "trtexec": files.program("trtexec"),
        "power_mode": _mode_fields(mode),
        "power_modes": _modes(files, mode),
        "clocks": _clocks(files),
        "temperatures_c": ThermalReader(files).read(),
        "rails_mw": rails,
        "module_mw": module_mw(rails),
        "free_bytes": disk.free,
        "total_bytes": disk.total,
        "memory_bytes": total if isinstance(total, int) else None,
        "cores": os.cpu_count(),
        "load_average": load_average(),
        "can_switch": may_switch(files),
    }
    if facts["dla_cores"] is None:
        facts["dla_cores"] = _dla_cores(files) if facts["jetson"] else None
    facts["missing"] = _missing(facts, files)
    lacking = {each["for"] for each in facts["missing"]}
    facts["runners"] = [runner for runner in ("trt", "ort-cpu") if runner not in lacking]
    return facts


def board_state(files: BoardFiles) -> dict[str, Any]:
    """Return the changing state of a board: clocks, temperatures, power, power mode and load."""
    return {
        "clocks": _clocks(files),
        "temperatures_c": ThermalReader(files).read(),
        "rails_mw": RailReader(files).read(),
        "power_mode": _mode_fields(current_mode(files)),
        "load_average": load_average(),
    }


def may_switch(files: BoardFiles) -> bool:
    """Return whether power modes and clocks can be set here without a password."""
    return files.may_run_as_root(_HARMLESS)


def _clocks(files: BoardFiles) -> dict[str, Any]:
    clocks = ClockReader(files).read()
    if clocks["gpu"] is not None and clocks["emc"] is None:
        # Only root can read the memory clock.
        with contextlib.suppress(IrepdeployError):
            said = files.run("jetson_clocks", "--show", as_root=True)
            clocks["emc"] = parse_memory_clock(said.text)
    return clocks


def _modes(files: BoardFiles, mode: PowerMode | None) -> list[dict[str, Any]]:
    configuration = files.read(CONFIGURATION)

    def reboots(other: PowerMode) -> bool | None:
        return None if mode is None else needs_reboot(configuration, mode.id, other.id)

    return [{**each._asdict(), "needs_reboot": reboots(each)} for each in known_modes(files)]


def _mode_fields(mode: PowerMode | None) -> dict[str, Any] | None:
    return None if mode is None else mode._asdict()


def _model(files: BoardFiles) -> str | None:
    return files.read("/proc/device-tree/model") or files.read("/sys/firmware/devicetree/base/model") or None


def _system_name(files: BoardFiles) -> str | None:
    for line in files.read("/etc/os-release").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME":
            return value.strip("\"'")
    return None


def _dla_cores(files: BoardFiles) -> int:
    found = {path.rsplit("/", 1)[-1] for parent in _HOST1X for path in files.find(_DLA.format(parent))}
    return len(found)


def _rails(files: BoardFiles) -> dict[str, float]:
    rails = RailReader(files).read()
    if rails or files.program("tegrastats") is None:
        return rails
    # The program keeps printing, but the first line is enough.
    return parse_rails(files.first_line("tegrastats", "--interval", "500"))


def _in_environment() -> bool:
    return sys.prefix != sys.base_prefix


def _ort_hint() -> str:
    # pip refuses --user in a virtual environment.
    user = "" if _in_environment() else "--user "
    install = f"{shlex.quote(sys.executable)} -m pip install {user}onnxruntime"
    return f"{install}; or name a Python there that has it: --python ~/venv/bin/python"


def _trt_hint(jetson: bool, *, found: bool) -> str:
    if not jetson:
        return "pip install tensorrt, or measure with --runner ort-cpu"
    if _in_environment() and not found:
        return "an environment made with --system-site-packages sees JetPack's; or --python /usr/bin/python3"
    return _JETPACK


def _existing(folder: str) -> str:
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder) or "/"
    return folder


def _missing(facts: dict[str, Any], files: BoardFiles) -> list[dict[str, str]]:
    jetson = facts["jetson"]
    missing = []

    def lack(what: str, needed_for: str, hint: str) -> None:
        missing.append({"what": what, "for": needed_for, "hint": hint})

    if facts["numpy"] is None:
        for runner in ("trt", "ort-cpu"):
            lack("numpy is not installed", runner, "sudo apt-get install python3-numpy")
    if facts["tensorrt"] is None or facts["tensorrt_problem"] is not None:
        problem = facts["tensorrt_problem"]
        what = "TensorRT is not installed for this Python" if problem is None else f"TensorRT does not work: {problem}"
        lack(what, "trt", _trt_hint(jetson, found=problem is not None))
    if "compute_capability" not in facts["cuda"]:
        why = str(facts["cuda"].get("gpu", "")).partition("none: ")[2]
        lack(why or "no usable GPU", "trt", _JETPACK if jetson else "install its driver")
    if facts["onnxruntime"] is None:
        lack(f"onnxruntime is not installed for {sys.executable}", "ort-cpu", _ort_hint())
    if facts["trtexec"] is None and facts["tensorrt"] is not None:
        lack("trtexec is not installed", "trtexec", "sudo apt-get install libnvinfer-bin")
    if not facts["rails_mw"]:
        lack("no INA3221 power monitor", "power", "power is measured on Jetson modules only")
    if jetson and not facts["can_switch"]:
        absent = [name for name in PROGRAMS if files.program(name) is None]
        what = f"no {' and no '.join(absent)}" if absent else "clocks cannot be set: sudo asks for a password"
        lack(what, "clocks", "sudo apt-get install nvidia-l4t-nvpmodel nvidia-l4t-tools" if absent else sudoers_hint())
    if facts["free_bytes"] < _LITTLE:
        lack(f"only {facts['free_bytes'] / 2**30:.1f} GiB of disk are free", "disk", "free some space: df -h ~")
    return missing
