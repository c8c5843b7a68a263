"""Request of one export."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from irepdeploy.runtime.given_inputs import Given

from .settings import Settings

__all__ = ["ExportRequest"]


@dataclass(frozen=True)
class ExportRequest:
    """A request to export one network or ONNX file; the fields are the arguments of `export_model`."""

    source: str | os.PathLike[str] | nn.Module
    out: str | os.PathLike[str]
    target: str = "ort"
    model_factory: Callable[[], nn.Module] | None = None
    inputs: Given | None = None
    seed: int = 0
    settings: Settings = field(default_factory=Settings)
