"""The system a measurement was taken on. What cannot be found out is the word "unknown", never a guess."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["UNKNOWN", "commit", "system_block"]

UNKNOWN = "unknown"

_PACKAGES = ("irepdeploy", "torch", "onnx", "onnxruntime", "numpy")
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


def system_block() -> dict[str, Any]:
    """OS, CPU, memory, GPU, versions and commit, JSON-able. Never fails and imports no heavy package."""
    return {
        "os": platform.platform() or UNKNOWN,
        "cpu": _cpu(),
        "memory": _memory(),
        "load_average": _load_average(),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "torch_threads": _torch_threads(),
        "irepdeploy_commit": commit(),
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
    try:
        answer = _run(["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"])
    except FileNotFoundError:
        return "none"
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    rows = [[value.strip() for value in line.split(",")] for line in answer.splitlines() if line.strip()]
    if any(len(row) != len(_GPU_FIELDS) for row in rows):
        return UNKNOWN
    return [_gpu_fields(row) for row in rows] or "none"


def _gpu_fields(row: Iterable[str]) -> dict[str, str]:
    return {field: UNKNOWN if value.startswith("[") else value for field, value in zip(_GPU_FIELDS, row, strict=True)}


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
    root = Path(__file__).resolve().parent.parent
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
