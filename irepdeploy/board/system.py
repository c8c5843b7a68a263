"""Description of the system that runs a measurement; facts that cannot be determined are "unknown", never guessed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from irepdeploy.board.board_files import BoardFiles
from irepdeploy.board.thermal import ThermalReader

__all__ = ["UNKNOWN", "commit", "load_average", "machine_state", "memory", "system_block"]

UNKNOWN = "unknown"

_HERE = BoardFiles()
_CPU = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq"
_PACKAGES = ("irepdeploy", "torch", "onnx", "onnxruntime", "numpy")
# Packages that are listed only if installed.
_GPU_PACKAGES = ("onnxruntime-gpu", "onnxruntime-ep-nv-tensorrt-rtx", "tensorrt", "tensorrt_rtx", "triton")
_GPU_FIELDS = (
    "name",
    "driver_version",
    "compute_cap",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "temperature.gpu",
    "power.draw",
    "power.limit",
    "persistence_mode",
)
_GPU_STATE = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "power.limit", "utilization.gpu")
# Renamed in driver 535. Queried separately, because nvidia-smi rejects a query that contains an unknown name.
_GPU_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# Names of the bits in NVML's mask of reasons for reduced clocks.
_REASONS = (
    "idle",
    "application clocks",
    "software power cap",
    "hardware slowdown",
    "sync boost",
    "software thermal slowdown",
    "hardware thermal slowdown",
    "hardware power brake",
    "display clocks",
)


def system_block() -> dict[str, Any]:
    """Return the OS, CPU, memory, GPU, versions and commit as JSON values. Never raises; imports no heavy package."""
    return {
        "os": platform.platform() or UNKNOWN,
        "cpu": _cpu(),
        "memory": memory(_HERE),
        "load_average": load_average(),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": _versions(),
        "torch_threads": _torch_threads(),
        "irepdeploy_commit": commit(),
    }


def machine_state() -> dict[str, Any]:
    """Return the changing state of the machine: clocks, temperature, power, throttling, load. Never raises."""
    temperatures = ThermalReader(_HERE).read() or UNKNOWN
    return {
        "cpu": {"governor": _governor(), "frequency_mhz": _frequency_mhz(), "temperature_c": temperatures},
        "load_average": load_average(),
        "gpu": _gpu_state(),
    }


def memory(files: BoardFiles) -> dict[str, Any]:
    """Return the ``total_bytes`` and ``available_bytes`` of a machine's memory."""
    sizes = {}
    for line in files.read("/proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        if value.split()[1:] == ["kB"]:
            sizes[key] = int(value.split()[0]) * 1024
    return {"total_bytes": sizes.get("MemTotal", UNKNOWN), "available_bytes": sizes.get("MemAvailable", UNKNOWN)}


def load_average() -> list[float] | str:
    """Return the load averages over 1, 5 and 15 minutes."""
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except (AttributeError, OSError):
        return UNKNOWN


def _cpu() -> dict[str, Any]:
    return {
        "model": _cpu_model(),
        "machine": platform.machine() or UNKNOWN,
        "logical_cores": os.cpu_count() or UNKNOWN,
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else UNKNOWN,
        "quota_cores": _quota_cores(),
        "governor": _governor(),
    }


def _cpu_model() -> str:
    return next((value for key, value in _cpuinfo() if key in ("model name", "Model") and value), UNKNOWN)


def _cpuinfo() -> list[tuple[str, str]]:
    lines = (line.partition(":") for line in _HERE.read("/proc/cpuinfo").splitlines())
    return [(key.strip(), value.strip()) for key, _, value in lines]


def _quota_cores() -> float | str:
    """Return the number of cores that the control group allows, or "none" if there is no limit."""
    quota, _, period = _HERE.read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota == "max":
        return "none"
    try:
        return int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return UNKNOWN


def _governor() -> str:
    found = {_HERE.read(path) for path in _HERE.find(f"{_CPU}/scaling_governor")} - {""}
    return "+".join(sorted(found)) or UNKNOWN


def _frequency_mhz() -> dict[str, float] | str:
    kilohertz = [_HERE.number(path) for path in _HERE.find(f"{_CPU}/scaling_cur_freq")]
    found = [clock / 1000 for clock in kilohertz if clock is not None]
    found = found or [float(value) for key, value in _cpuinfo() if key == "cpu MHz"]
    return {"min": min(found), "max": max(found)} if found else UNKNOWN


def _gpu() -> list[dict[str, str]] | str:
    """Return the facts that nvidia-smi reports about each GPU, or "none" if it is not installed or finds no GPU."""
    return _nvidia_smi(_GPU_FIELDS)


def _gpu_state() -> list[dict[str, Any]] | str:
    state = _nvidia_smi(_GPU_STATE)
    if isinstance(state, str):
        return state
    for name in _GPU_REASONS:
        reasons = _nvidia_smi((name,))
        if not isinstance(reasons, str) and len(reasons) == len(state):
            return [{**gpu, "slowed_by": _slowed_by(reasons[index][name])} for index, gpu in enumerate(state)]
    return [{**gpu, "slowed_by": UNKNOWN} for gpu in state]


def _slowed_by(bits: str) -> list[str] | str:
    try:
        mask = int(bits, 16)
    except ValueError:
        return UNKNOWN
    return [reason for bit, reason in enumerate(_REASONS) if mask >> bit & 1]


def _nvidia_smi(names: tuple[str, ...]) -> list[dict[str, str]] | str:
    try:
        answer = _run(["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader"])
    except FileNotFoundError:
        return "none"
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    rows = [[value.strip() for value in line.split(",")] for line in answer.splitlines() if line.strip()]
    if any(len(row) != len(names) for row in rows):
        return UNKNOWN
    return [_gpu_fields(names, row) for row in rows] or "none"


def _gpu_fields(names: tuple[str, ...], row: list[str]) -> dict[str, str]:
    return {name: UNKNOWN if row[index].startswith("[") else row[index] for index, name in enumerate(names)}


def _versions() -> dict[str, str]:
    found = {package: _version(package) for package in _PACKAGES}
    more = {package: _version(package) for package in _GPU_PACKAGES}
    return {**found, **{package: version for package, version in more.items() if version != UNKNOWN}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return UNKNOWN


def _torch_threads() -> int | str:
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None and hasattr(torch, "get_num_threads") else "torch not loaded"


def commit() -> dict[str, Any]:
    """Return the commit of this code if it runs from a git checkout, and whether tracked files were modified."""
    root = Path(__file__).resolve().parents[2]
    unknown = {"sha": UNKNOWN, "dirty": UNKNOWN}
    # In an environment inside another project's checkout, git would return the commit of that project.
    if not (root / ".git").exists():
        return unknown
    # Inside a git hook, these variables may refer to another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        sha = _run(["git", "rev-parse", "HEAD"], cwd=root, env=environment).strip()
        # Untracked files in the checkout are mostly results, not changes of the code.
        status = ["git", "--no-optional-locks", "status", "--porcelain", "--untracked-files=no"]
        changes = _run(status, cwd=root, env=environment)
    except (OSError, subprocess.SubprocessError):
        return unknown
    return {"sha": sha, "dirty": bool(changes.strip())}


def _run(command: list[str], **where: Any) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, **where).stdout
