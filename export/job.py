"""A running export: its audits and comparisons, and the certificate that records them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx

from irepdeploy.board.comparison import Noise
from irepdeploy.board.runner import Runner, TensorSpec
from irepdeploy.errors import CheckFailed, IrepdeployError, ModelError
from irepdeploy.onnx_graph.written import fits_one_file, serialized, write_model
from irepdeploy.reparam.comparator import TOLERANCES, Tolerance, compare_outputs
from irepdeploy.verify.certificate import Certificate, Hop
from irepdeploy.verify.runners import infer_all, noise_of, onnx_runner
from irepdeploy.verify.samples import Inputs, joined, named

from .diagnosis.audit import Asked, audit
from .request.export_request import ExportRequest
from .request.settings import Settings
from .target.target import Target

if TYPE_CHECKING:
    from .diagnosis.first_bad_layer import LayerError
    from .exportable import Exportable
    from .simplify import Simplifier

__all__ = ["Form", "Job", "Locate", "Outputs", "Report"]

Outputs = dict[str, np.ndarray[Any, Any]]
Report = Callable[[str], None]
Locate = Callable[[Tolerance], "LayerError | None"]


class Form(NamedTuple):
    """A form of the exported network: its name in the certificate, and its outputs on the inputs of the export."""

    name: str
    outputs: Outputs


@dataclass(frozen=True)
class Job:
    """An export in its staging folder.

    Attributes:
        target: Target of the request, with the limits of this machine.
        certificate: Record of every check, complete after the last step.
        report: Function called with the name of each finished step.
        simplifier: Running onnx-simplifier, if the caller started one.
        noise: Noise of the source by output, once it has run; see `noise_of`.
    """

    request: ExportRequest
    target: Target
    source: Exportable
    certificate: Certificate
    folder: Path
    report: Report
    simplifier: Simplifier | None = None
    noise: dict[str, Noise] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def settings(self) -> Settings:
        """The settings of the request."""
        return self.request.settings

    @cached_property
    def inputs(self) -> Inputs:
        """The inputs of all groups together."""
        return joined([group.array for group in self.source.groups])

    def check_size(self, model: onnx.ModelProto) -> None:
        """Raise ModelError if the target's engine is built from a file that cannot hold the model."""
        if self.target.engine is not None and not fits_one_file(model):
            raise ModelError("exceeds 2 GiB, and an engine is built from a single file", where=self.source.label)

    def runnable(self, model: onnx.ModelProto) -> bytes | Path:
        """Return a model in a form for ONNX Runtime: its bytes or, above 2 GiB, a file in the staging folder."""
        if fits_one_file(model):
            return serialized(model)
        return write_model(model, self.folder / f"{next(self._numbers)}.onnx")[-1]

    def run(self, model: bytes | Path, inputs: Inputs | None = None) -> Outputs:
        """Return the outputs of an ONNX model on `inputs`, by default those of the export."""
        with onnx_runner(model) as runner:
            return infer_all(runner, self.inputs if inputs is None else inputs)

    def run_source(self, runner: Runner, unoptimized: Runner | None = None) -> Outputs:
        """Return the outputs of the source and measure its noise, which all comparisons tolerate."""
        with runner:
            outputs = infer_all(runner, self.inputs)
            self.noise.update(noise_of(runner, self.inputs, outputs, unoptimized))
        return outputs

    def audit(
        self, path: Path, specs: Sequence[TensorSpec], asked: Asked, *, outputs: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Audit a file and return the findings. The expected outputs are `outputs`, by default those of the source."""
        try:
            return audit(path, self.target, specs, outputs or self.source.origin.output_names, asked)
        except CheckFailed as error:
            # The file itself disappears with the staging folder.
            raise CheckFailed(error.what, where=f"{self.source.label}, {path.name}", hint=error.hint) from error

    def gate(
        self,
        reference: Form,
        result: Form,
        *,
        layers: dict[str, float] | None = None,
        tolerance: Tolerance = TOLERANCES["float32"],
        inputs: list[dict[str, Any]] | None = None,
        locate: Locate = lambda tolerance: None,
        hint: str | None = None,
    ) -> None:
        """Compare two forms, record the comparison in the certificate, and raise CheckFailed if they differ.

        Args:
            reference: Form to compare with.
            result: Form to check.
            layers: Errors of single layers, if measured.
            tolerance: Allowed difference.
            inputs: Description of the inputs, if they are not those of the export.
            locate: Function that finds the first layer that differs.
            hint: How to fix a failure.
        """
        comparison = compare_outputs(reference.outputs, result.outputs, tolerance, layers=layers, noise=self.noise)
        described = comparison.to_dict()
        if not comparison.ok and comparison.first_bad_layer is None:
            # A failed search must not hide the verdict.
            with contextlib.suppress(IrepdeployError):
                first = locate(comparison.allowed)
                if first is not None:
                    described["first_bad_layer"] = first.layer
                    described["reason"] += f"; the first layer that differs is {first.layer}, by {first.error:.2e}"
        inputs = [group.to_dict() for group in self.source.groups] if inputs is None else inputs
        self.certificate.hops.append(Hop(reference.name, result.name, inputs, described))
        if not comparison.ok:
            what = f"{reference.name} and {result.name} differ: {described['reason']}"
            raise CheckFailed(what, where=self.source.label, hint=hint)

    def layer_search(self, reference: onnx.ModelProto, result: Path, specs: Sequence[TensorSpec]) -> Locate:
        """Return a search for the first layer where one ONNX model differs from another."""

        def locate(tolerance: Tolerance) -> LayerError | None:
            from .diagnosis.first_bad_layer import first_bad_layer

            return first_bad_layer(reference, result, named(self.inputs, specs), tolerance)

        return locate
