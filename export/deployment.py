"""From a verified fp32 ONNX to everything else that is deployed: lower precisions, uint8 images, engines."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import CheckFailed, IrepdeployError
from irepdeploy.files import write_bytes
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.proto import name_nodes
from irepdeploy.reparam.comparator import TOLERANCES, Tolerance, compare_outputs
from irepdeploy.reparam.origin import Origin
from irepdeploy.verify.certificate import Artefact, Certificate, Hop
from irepdeploy.verify.equivalence import infer_all, onnx_runner
from irepdeploy.verify.inputs import Given, InputGroup, joined, named

from .diagnosis.audit import Asked, audit
from .engine.engines import engines_for
from .precision.calibration import calibration_data
from .precision.precisions import carried_by_fp32, tolerance_of_precision, write_fp16, write_int8
from .request.preprocess import Preprocessing, with_preprocessing
from .request.settings import Settings
from .target.target import Target
from .writer.onnx_from_torch import serialized

if TYPE_CHECKING:
    from .diagnosis.first_bad_layer import LayerError

__all__ = ["ONNX", "Deployment", "Locate", "Report"]

Array = np.ndarray[Any, Any]
Report = Callable[[str], None]
Locate = Callable[[Tolerance], "LayerError | None"]

ONNX = "model.onnx"


class _Described(Protocol):
    """What is exported: a network, or an ONNX file."""

    @property
    def label(self) -> str: ...

    @property
    def origin(self) -> Origin: ...


class Deployment(abc.ABC):
    """One export in its staging folder.

    A subclass sets in `prepare`: `specs` and `asked` of the file, `onnx_outputs`, `files` and `models`.
    """

    specs: Sequence[TensorSpec]
    asked: Asked
    onnx_outputs: dict[str, Array]
    files: list[Path]
    models: dict[str, Path]

    def __init__(
        self,
        source: _Described,
        target: Target,
        groups: Sequence[InputGroup],
        certificate: Certificate,
        staging: Path,
        settings: Settings,
    ) -> None:
        self.label, self.origin = source.label, source.origin
        self.target, self.groups, self.certificate, self.settings = target, groups, certificate, settings
        self.onnx = staging / ONNX
        self.inputs = joined([group.array for group in groups])
        # Artefacts whose digest is being computed beside the rest.
        self.saved: dict[Path, Future[Artefact]] = {}

    @abc.abstractmethod
    def prepare(self, report: Report) -> None:
        """Write the fp32 ONNX and prove it."""

    def lower(self, precision: str, given: Given | None) -> None:
        """Write another precision, audit it, and hold it against fp32."""
        model = open_model(self.onnx)
        name_nodes(model)
        path = self.onnx.with_name(f"model.{precision}.onnx")
        kept: frozenset[str] = frozenset()
        if precision == "fp16":
            by_flag = carried_by_fp32(self.target, precision)
            found = write_fp16(model, self.inputs, None if by_flag else path)
            if by_flag:
                path = self.onnx
        else:
            data = calibration_data(self.origin.specs, given=given, dataset=self.origin.dataset)
            found, kept = write_int8(model, data, path, target=self.target, max_drop=self.settings.max_drop)
        self.certificate.precisions[precision] = found
        self.models[precision] = path
        if path == self.onnx:
            return
        asked = dataclasses.replace(self.asked, precision=precision, kept=kept)
        found["onnx"] = self.audited(path, asked)
        self.files.append(path)
        with onnx_runner(path) as runner:
            outputs = infer_all(runner, self.inputs)
        tolerance = tolerance_of_precision(precision)
        self.gate(ONNX, path.name, self.onnx_outputs, outputs, tolerance=tolerance, locate=self.layer(model, path))

    def bake(self, preprocessing: Preprocessing) -> None:
        """Let every file take uint8 images, and hold each against what it was on the same images, normalised."""
        channels, height, width = self.origin.input_shape
        size = (height, width, channels) if preprocessing.layout == "nhwc" else (channels, height, width)
        images = np.random.default_rng(0).integers(0, 256, (8, *size), dtype=np.uint8)
        specs = [spec._replace(shape=(spec.shape[0], *size), dtype="uint8") for spec in self.specs]
        for precision, path in self.models.items():
            if path == self.onnx and precision != "fp32":
                continue
            with onnx_runner(path) as runner:
                before = infer_all(runner, preprocessing(images))
            baked = with_preprocessing(open_model(path), preprocessing)
            write_bytes(path, serialized(baked))
            kept = frozenset(self.certificate.precisions.get(precision, {}).get("kept_float", ()))
            asked = dataclasses.replace(self.asked, precision=precision, kept=kept)
            facts = self.audited(path, asked, specs)
            with onnx_runner(path) as runner:
                after = infer_all(runner, images)
            self.gate(
                f"normalise, then {path.name}",
                f"{path.name}, uint8",
                before,
                after,
                tolerance=tolerance_of_precision(precision),
                inputs=[{"name": "random uint8 images", "count": len(images), "shape": list(size), "seed": 0}],
            )
            if precision == "fp32":
                self.certificate.onnx.update(facts)
            else:
                self.certificate.precisions[precision]["onnx"] = facts
        self.specs = specs
        self.certificate.onnx["preprocessing"] = preprocessing.to_dict()

    def build(self, precisions: Sequence[str], report: Report) -> None:
        """Build the engines that the target asks for, and list what was made."""
        models = {name: self.models[name] for name in precisions}
        self.certificate.engine, engines = engines_for(
            self.target, models, self.onnx.parent, self.specs, self.label, self.settings, report
        )
        self.files += engines
        self.certificate.artefacts = [
            self.saved[path].result() if path in self.saved else Artefact.of(path) for path in self.files
        ]

    def audited(self, path: Path, asked: Asked, specs: Sequence[TensorSpec] | None = None) -> dict[str, Any]:
        """What the audit finds in a file."""
        try:
            return audit(path, self.target, specs or self.specs, self.origin.output_names, asked)
        except CheckFailed as error:
            # The file itself is gone with its temporary folder.
            raise CheckFailed(error.what, where=f"{self.label}, {path.name}", hint=error.hint) from error

    def run_onnx(self) -> dict[str, Array]:
        """Outputs of the fp32 ONNX."""
        with onnx_runner(self.onnx) as runner:
            return infer_all(runner, self.inputs)

    def gate(
        self,
        source: str,
        result: str,
        a: dict[str, Array],
        b: dict[str, Array],
        layers: dict[str, float] | None = None,
        tolerance: Tolerance = TOLERANCES["float32"],
        inputs: list[dict[str, Any]] | None = None,
        locate: Locate = lambda tolerance: None,
    ) -> None:
        """Compare two forms and note it.

        Raises:
            CheckFailed: they differ.
        """
        comparison = compare_outputs(a, b, tolerance, layers=layers)
        inputs = [group.to_dict() for group in self.groups] if inputs is None else inputs
        described = comparison.to_dict()
        if not comparison.ok and comparison.first_bad_layer is None:
            # What cannot be found must not hide the verdict.
            with contextlib.suppress(IrepdeployError):
                first = locate(tolerance)
                if first is not None:
                    described["first_bad_layer"] = first.layer
                    described["reason"] += f"; the first layer that differs is {first.layer}, by {first.error:.2e}"
        self.certificate.hops.append(Hop(source, result, inputs, described))
        if not comparison.ok:
            raise CheckFailed(f"{source} and {result} differ: {described['reason']}", where=self.label)

    def layer(self, reference: onnx.ModelProto, result: Path) -> Locate:
        """Where one ONNX begins to differ from another."""

        def locate(tolerance: Tolerance) -> LayerError | None:
            from .diagnosis.first_bad_layer import first_bad_layer

            return first_bad_layer(reference, result, named(self.inputs, self.specs), tolerance)

        return locate
