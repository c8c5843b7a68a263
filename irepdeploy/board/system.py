"""The system a measurement was taken on. What cannot be found out is the word "unknown", never a guess.

This module is Python 3.8, stdlib only: the board's agent carries it.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["UNKNOWN", "commit", "machine_state", "system_block"]

UNKNOWN = "unknown"

_PACKAGES = ("irepdeploy", "torch", "onnx", "onnxruntime", "numpy")
# Named where they are installed.
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
# Renamed with driver 535; asked for by themselves, since one unknown name makes nvidia-smi refuse them all.
_GPU_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# Bits of NVML's reasons why a GPU runs slower than it could.
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
    """OS, CPU, memory, GPU, versions and commit, JSON-able. Never fails and imports no heavy package."""
    return {
        "os": platform.platform() or UNKNOWN,
        "cpu": _cpu(),
        "memory": _memory(),
        "load_average": _load_average(),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": _versions(),
        "torch_threads": _torch_threads(),
        "irepdeploy_commit": commit(),
    }


def machine_state() -> dict[str, Any]:
    """What of a machine changes while it works: clocks, temperature, power, throttling, load. Never fails."""
    return {
        "cpu": {"governor": _governor(), "frequency_mhz": _frequency_mhz(), "temperature_c": _temperature_c()},
        "load_average": _load_average(),
        "gpu": _gpu_state(),
    }


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
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return UNKNOWN


def _quota_cores() -> float | str:
    """Cores' worth of time that the control group grants: "none" where it sets no limit."""
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if quota == "max":
        return "none"
    try:
        return int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return UNKNOWN


def _governor() -> str:
    cpus = Path("/sys/devices/system/cpu")
    found = {_read(path).strip() for path in cpus.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""}
    return "+".join(sorted(found)) or UNKNOWN


def _frequency_mhz() -> dict[str, float] | str:
    """The slowest and the fastest core now."""
    policies = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    found = [int(text) / 1000 for text in (_read(path).strip() for path in policies) if text.isdigit()]
    if not found:
        for line in _read("/proc/cpuinfo").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "cpu MHz":
                found.append(float(value))
    return {"min": min(found), "max": max(found)} if found else UNKNOWN


def _temperature_c() -> dict[str, float] | str:
    """Of every thermal zone that tells, by its name; of zones of one name the hottest."""
    found: dict[str, float] = {}
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        name, text = _read(zone / "type").strip(), _read(zone / "temp").strip()
        if text.lstrip("-").isdigit():
            found[name] = max(int(text) / 1000, found.get(name, -273.0))
    return found or UNKNOWN


def _memory() -> dict[str, Any]:
    """Bytes."""
    sizes = {}
    for line in _read("/proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        if value.split()[1:] == ["kB"]:
            sizes[key] = int(value.split()[0]) * 1024
    return {"total_bytes": sizes.get("MemTotal", UNKNOWN), "available_bytes": sizes.get("MemAvailable", UNKNOWN)}


def _load_average() -> list[float] | str:
    try:
        return [round(load, 2) for load in os.getloadavg()]
    except (AttributeError, OSError):
        return UNKNOWN


def _gpu() -> list[dict[str, str]] | str:
    """What nvidia-smi says of each GPU, "none" where there is no such program or it sees none."""
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
    """Commit of this very code where it runs from a git checkout, and whether its files differ from it."""
    root = Path(__file__).resolve().parents[2]
    unknown = {"sha": UNKNOWN, "dirty": UNKNOWN}
    # Installed into an environment that lies inside somebody's checkout, the commit would be theirs, not ours.
    if not (root / ".git").exists():
        return unknown
    # Set inside a git hook, these would name another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        sha = _run(["git", "rev-parse", "HEAD"], cwd=root, env=environment).strip()
        # What was written into the checkout beside the code, results most often, is no change of it.
        status = ["git", "--no-optional-locks", "status", "--porcelain", "--untracked-files=no"]
        changes = _run(status, cwd=root, env=environment)
    except (OSError, subprocess.SubprocessError):
        return unknown
    return {"sha": sha, "dirty": bool(changes.strip())}


def _run(command: list[str], **where: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, **where)
    return done.stdout


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
