"""Intermediate result passed between the steps of an export."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from irepdeploy.board.runner import TensorSpec
from irepdeploy.onnx_graph.written import data_file
from irepdeploy.verify.certificate import Artefact

from .diagnosis.audit import Asked
from .job import Outputs

__all__ = ["Prepared"]


@dataclass(frozen=True)
class Prepared:
    """A verified fp32 ONNX file and the files made from it so far.

    Attributes:
        models: ONNX file of each precision; "fp32" is always present.
        outputs: Outputs of the fp32 file on the inputs of the export.
        files: All files to publish, in the order of the certificate.
        hashed: Artefacts of the files whose digest is already known.
    """

    models: Mapping[str, Path]
    specs: Sequence[TensorSpec]
    asked: Asked
    outputs: Outputs
    files: tuple[Path, ...]
    hashed: Mapping[Path, Artefact] = field(default_factory=dict)

    @property
    def onnx(self) -> Path:
        """The fp32 ONNX file."""
        return self.models["fp32"]

    def with_model(self, precision: str, path: Path) -> Prepared:
        """Return a copy with the ONNX file of another precision, which may be the fp32 file itself."""
        data = data_file(path)
        files = dict.fromkeys((*self.files, *([data] if data.exists() else []), path))
        return dataclasses.replace(self, models={**self.models, precision: path}, files=tuple(files))

    def artefacts(self) -> list[Artefact]:
        """Return the artefact of every file, hashing those that are not hashed yet."""
        return [self.hashed.get(path) or Artefact.of(path) for path in self.files]
