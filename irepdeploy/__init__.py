"""Search re-parameterization branches, train with them, fuse them exactly, and deploy the plain network.

    import irepdeploy as ird
    net = ird.insert_branches(net)
    plain = ird.fuse(net.eval())
    assert ird.compare(net, plain, inputs).ok

Names are imported on first use, which keeps `import irepdeploy` cheap. This file must run on Python 3.8, because it is
part of the board's agent.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from irepdeploy.errors import IrepdeployError
    from irepdeploy.export.pipeline import export_model
    from irepdeploy.inference.detect import detect as detect
    from irepdeploy.network.checkpoint import load, save
    from irepdeploy.network.nets import build
    from irepdeploy.onnx_collapse import collapse
    from irepdeploy.onnx_collapse.read_back.graph_fuse import fuse_graph
    from irepdeploy.reparam.architecture import Architecture
    from irepdeploy.reparam.comparator import compare
    from irepdeploy.reparam.fuse import fuse
    from irepdeploy.reparam.insert import insert_branches
    from irepdeploy.reparam.probe import fuse_probe
    from irepdeploy.reparam.step import set_step
    from irepdeploy.search.functions import search as search
    from irepdeploy.search.functions import train
    from irepdeploy.search.own_loop import Supernet

    __version__: str

__all__ = [
    "Architecture",
    "IrepdeployError",
    "Supernet",
    "__version__",
    "build",
    "collapse",
    "compare",
    "export_model",
    "fuse",
    "fuse_graph",
    "fuse_probe",
    "insert_branches",
    "load",
    "save",
    "set_step",
    "train",
]

# On import ONNX Runtime 1.32 starts a thread that stores usage data in the home folder and can upload it, unless this
# is set.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_CALLED = {"detect", "search"}
_HOME = {
    "Architecture": "irepdeploy.reparam.architecture",
    "IrepdeployError": "irepdeploy.errors",
    "build": "irepdeploy.network.nets",
    "collapse": "irepdeploy.onnx_collapse",
    "compare": "irepdeploy.reparam.comparator",
    "fuse": "irepdeploy.reparam.fuse",
    "fuse_graph": "irepdeploy.onnx_collapse.read_back.graph_fuse",
    "fuse_probe": "irepdeploy.reparam.probe",
    "insert_branches": "irepdeploy.reparam.insert",
    "load": "irepdeploy.network.checkpoint",
    "save": "irepdeploy.network.checkpoint",
    "set_step": "irepdeploy.reparam.step",
}


def __getattr__(name: str) -> Any:
    # `search` and `detect` are not in __all__ because they are also modules, made callable like functions.
    if name not in __all__ and name not in _CALLED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if name == "__version__":
        return globals().setdefault(name, _installed_version())
    if name == "detect":
        return importlib.import_module(f"{__name__}.detect")
    value = getattr(importlib.import_module(_HOME[name]), name) if name in _HOME else _from_stage(name)
    # Importing the stage `search` has already bound that name, to the callable module.
    return globals().setdefault(name, value)


def __dir__() -> List[str]:
    return sorted(set(globals()) | set(__all__) | _CALLED)


def _installed_version() -> str:
    # The version is defined only by the repository's tags; the archive for the board contains metadata as well.
    from importlib import metadata

    try:
        return metadata.version("irepdeploy")
    except metadata.PackageNotFoundError:
        return "unknown"  # the sources are on the path, but not installed


def _from_stage(name: str) -> Any:
    # The core does not import stages; their public functions are registered as entry points.
    from importlib.metadata import entry_points

    found = list(entry_points(group="irepdeploy.api", name=name))
    if not found:
        from irepdeploy.errors import MissingError

        raise MissingError(
            "no installed package provides this function", where=f"irepdeploy.{name}", hint="install irepdeploy again"
        )
    return found[0].load()
