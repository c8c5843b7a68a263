"""Everything that one export is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from irepdeploy.verify.inputs import Given

from .settings import Settings

__all__ = ["ExportRequest"]


@dataclass(frozen=True)
class ExportRequest:
    """A request to export one network or ONNX file.

    Attributes:
        source: Checkpoint, name of a network, network in eval mode, or path of an ``.onnx`` file.
        out: Folder for the results; created if missing.
        target: Name in `TARGETS`.
        model_factory: Builds the class of a foreign checkpoint.
        inputs: Inputs that replace the real ones, or the path of a file or folder that `read_inputs` accepts.
        seed: Seed of random inputs, and of a network given by name.
        settings: All other options.
    """

    source: str | os.PathLike[str] | nn.Module
    out: str | os.PathLike[str]
    target: str = "ort"
    model_factory: Callable[[], nn.Module] | None = None
    inputs: Given | None = None
    seed: int = 0
    settings: Settings = field(default_factory=Settings)
