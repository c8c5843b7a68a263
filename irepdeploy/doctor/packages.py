"""Checks of Python and the packages that irepdeploy requires."""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
from dataclasses import dataclass
from functools import partial
from importlib import metadata

from irepdeploy.board.trt_library import FLAVOURS
from irepdeploy.doctor.check import Check, one_line, run_all
from irepdeploy.doctor.probes import imported, probe

__all__ = ["is_there", "packages", "python"]

_PYTHON = (3, 11)
_MODULES = {"cuda-python": "cuda.bindings.runtime", "pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
# These are imported in this process, because they are light and most are already loaded.
_LIGHT = ("numpy", "pillow", "pydantic", "pyyaml", "rich", "typer")
# Extras for developing irepdeploy itself.
_OURS = ("dev", "docs")
_NOTES = {"cuda-python": "ctypes on libcudart is used instead"}


@dataclass(frozen=True)
class _Requirement:
    package: str
    minimum: str
    extra: str

    @property
    def specifier(self) -> str:
        return self.package + (f">={self.minimum}" if self.minimum else "")


def python() -> list[Check]:
    """Check the Python interpreter."""
    where = sys.executable + ("" if sys.prefix != sys.base_prefix else ", not a virtual environment")
    if sys.version_info < _PYTHON:
        return [Check("Python", platform.python_version(), "missing", f"older than 3.11; {where}", required=True)]
    return [Check("Python", platform.python_version(), note=where, required=True)]


def packages() -> list[Check]:
    """Check each package of a plain installation or an extra, and whether it can be imported."""
    wanted = [need for need in map(_requirement, metadata.requires("irepdeploy") or ()) if need.extra not in _OURS]
    # TensorRT has a row of its own.
    wanted = [need for need in wanted if need.package not in FLAVOURS]
    return run_all({need.package: partial(_package, need) for need in wanted})


def is_there(module: str) -> bool:
    """Return whether a module is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        # The parent package is missing, or sys.modules was modified manually.
        return False


def _requirement(text: str) -> _Requirement:
    package = re.match(r"[\w.-]+", text)
    minimum, extra = re.search(r">=\s*([\d.]+)", text), re.search(r"extra\s*==\s*[\"']([\w-]+)", text)
    return _Requirement(*(match[match.re.groups] if match else "" for match in (package, minimum, extra)))


def _package(need: _Requirement) -> list[Check]:
    module = _MODULES.get(need.package, need.package)
    purpose = "; ".join(filter(None, (need.extra and f"extra {need.extra}", _NOTES.get(need.package, ""))))
    row = partial(Check, need.package, required=not need.extra)
    if not is_there(module):
        install = f"irepdeploy[{need.extra}]" if need.extra else need.specifier
        return [row("-", "missing", purpose, f"pip install '{install}'")]
    # onnxruntime-gpu provides the same module.
    names = [name for name in (need.package, f"{need.package}-gpu") if _version(name)] or [need.package]
    version = _version(names[-1])
    try:
        loaded = imported(module) if need.package in _LIGHT else probe("imported", module)[0]
    except Exception as error:  # an import can raise anything
        again = f"pip install --force-reinstall {names[-1]}"
        return [row(version or "unknown", "missing", f"installed, but cannot be imported: {one_line(error)}", again)]
    version = version or loaded["version"] or "unknown"
    if len(names) > 1:
        both = " ".join(names)
        fix = f"pip uninstall -y {both} && pip install {names[-1]}"
        return [row(version, "warning", f"{' and '.join(names)} overwrite each other's files", fix)]
    if need.minimum and _numbers(version) < _numbers(need.minimum):
        return [row(version, "missing", f"older than {need.minimum}", f"pip install --upgrade '{need.specifier}'")]
    return [row(version, note=purpose)]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])))
