"""One export in its staging folder: what each hop makes, and its comparison with the one before."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from torch import nn

from irepdeploy.certificate import Artefact, Certificate, Hop
from irepdeploy.checkpoint import save
from irepdeploy.comparator import TOLERANCES, Tolerance, compare_outputs
from irepdeploy.equivalence import infer_all, layer_errors, network_runner, onnx_runner
from irepdeploy.errors import CheckFailed, InputError, IrepdeployError
from irepdeploy.files import write_bytes
from irepdeploy.inputs import Given, InputGroup, joined, named
from irepdeploy.origin import origin_of
from irepdeploy.profiling.counts import Counts, count
from irepdeploy.profiling.health import network_health
from irepdeploy.reparam.fuse import BlockProof, fuse_with_proof
from irepdeploy.runtime.runner import TensorSpec
from irepdeploy.source import Source, with_blocks

from .audit import Asked, audit
from .calibration import calibration_data
from .engines import engines_for
from .onnx_from_torch import serialized
from .precisions import carried_by_fp32, tolerance_of_precision, write_fp16, write_int8
from .preprocess import Preprocessing, with_preprocessing
from .settings import Settings
from .simplify import Simplified, Simplifier
from .source import metadata_of
from .target import Target
from .torch_exporter import write_onnx

if TYPE_CHECKING:
    from .first_bad_layer import LayerError

__all__ = ["FUSED", "ONNX", "Export"]

Array = np.ndarray[Any, Any]
Report = Callable[[str], None]
Locate = Callable[[Tolerance], "LayerError | None"]

ONNX, FUSED = "model.onnx", "fused.pt"
_SIMPLER = "simpler.onnx"
_SOURCE = "network"
_FUSED_STATE = "fused state"


class Export:
    """One export in its staging folder."""

    def __init__(
        self,
        source: Source,
        target: Target,
        groups: Sequence[InputGroup],
        certificate: Certificate,
        staging: Path,
        settings: Settings,
        simplifier: Simplifier | None = None,
        *,
        pool: Executor,
    ) -> None:
        self.simplifier, self.pool = simplifier, pool
        self.source, self.target, self.groups, self.certificate = source, target, groups, certificate
        self.settings = settings
        self.onnx, self.checkpoint = staging / ONNX, staging / FUSED
        self.inputs = joined([group.array for group in groups])

    def fuse(self) -> None:
        """Make the fused state, each block proved, and hold the whole of it against the network."""
        model = self.source.model
        blocks = with_blocks(model)
        if blocks is None:
            self.fused = model
            self._save()
        self.fused_outputs = self.reference = self._run_network(model)
        if blocks is None:
            return
        self.fused, proofs = fuse_with_proof(blocks)
        self._save()
        self.certificate.blocks = _summary(proofs)
        self.certificate.health = [layer.to_dict() for layer in network_health(blocks, self.fused)]
        self.certificate.size = {
            state: dataclasses.asdict(self._count(net)) for state, net in (("train", blocks), ("fused", self.fused))
        }
        self.fused_outputs = self._run_network(self.fused)
        layers = layer_errors(blocks, self.fused, self.groups)
        self._gate(_SOURCE, _FUSED_STATE, self.reference, self.fused_outputs, layers)

    def write(self) -> None:
        """Write ONNX and audit it."""
        origin = self.source.origin
        batch = 1 if self.settings.dynamic_batch is None else None
        self.specs = [spec._replace(shape=(batch, *spec.shape[1:])) for spec in origin.specs]
        written = write_onnx(
            self.fused,
            self.specs,
            origin.output_names,
            target=self.target,
            metadata=metadata_of(origin_of(self.fused)),
        )
        self.asked = Asked(opset=written.opset, dynamic_batch=batch is None)
        described = written.to_dict()
        write_bytes(self.onnx, serialized(written.model))
        # Its weights would only stand beside those that the audit reads.
        del written
        self._audit()
        self.certificate.onnx.update(described)

    def compare(self) -> None:
        """Hold the ONNX against the fused state, simplify it, and hold the end against the beginning."""
        if self.simplifier is not None:
            self.simplifier.begin(self.onnx, self.onnx.with_name(_SIMPLER))
        final = self._run_onnx()
        state = _SOURCE if self.fused is self.source.model else _FUSED_STATE
        self._gate(state, ONNX, self.fused_outputs, final, locate=self._module(self.fused))
        if self.simplifier is not None:
            final = self._simplify(self.simplifier.result(), final)
        else:
            self.certificate.onnx["simplifier"] = "not run"
        if state != _SOURCE:
            self._gate(_SOURCE, ONNX, self.reference, final, locate=self._module(self.source.model))
        fused = sum(parameter.numel() for parameter in self.fused.parameters())
        self.certificate.onnx["parameters"] = fused
        self.files = [self.onnx, self.checkpoint]
        self.models = {"fp32": self.onnx}
        self.onnx_outputs = final

    def lower(self, precision: str, given: Given | None) -> None:
        """Write another precision, audit it, and hold it against fp32."""
        model = onnx.load_model_from_string(self.onnx.read_bytes())
        path = self.onnx.with_name(f"model.{precision}.onnx")
        kept: frozenset[str] = frozenset()
        if precision == "fp16":
            by_flag = carried_by_fp32(self.target, precision)
            found = write_fp16(model, self.inputs, None if by_flag else path)
            if by_flag:
                path = self.onnx
        else:
            data = calibration_data(self.source.origin.specs, given=given, dataset=self.source.origin.dataset)
            found, kept = write_int8(model, data, path, target=self.target, max_drop=self.settings.max_drop)
        self.certificate.precisions[precision] = found
        self.models[precision] = path
        if path == self.onnx:
            return
        asked = dataclasses.replace(self.asked, precision=precision, kept=kept)
        found["onnx"] = self._audited(path, asked)
        self.files.append(path)
        with onnx_runner(path) as runner:
            outputs = infer_all(runner, self.inputs)
        tolerance = tolerance_of_precision(precision)
        self._gate(ONNX, path.name, self.onnx_outputs, outputs, tolerance=tolerance, locate=self._layer(model, path))

    def bake(self, preprocessing: Preprocessing) -> None:
        """Let every file take uint8 images, and hold each against what it was on the same images, normalised."""
        channels, height, width = self.source.origin.input_shape
        size = (height, width, channels) if preprocessing.layout == "nhwc" else (channels, height, width)
        images = np.random.default_rng(0).integers(0, 256, (8, *size), dtype=np.uint8)
        specs = [spec._replace(shape=(spec.shape[0], *size), dtype="uint8") for spec in self.specs]
        for precision, path in self.models.items():
            if path == self.onnx and precision != "fp32":
                continue
            with onnx_runner(path) as runner:
                before = infer_all(runner, preprocessing(images))
            baked = with_preprocessing(onnx.load_model_from_string(path.read_bytes()), preprocessing)
            write_bytes(path, serialized(baked))
            kept = frozenset(self.certificate.precisions.get(precision, {}).get("kept_float", ()))
            asked = dataclasses.replace(self.asked, precision=precision, kept=kept)
            facts = self._audited(path, asked, specs)
            with onnx_runner(path) as runner:
                after = infer_all(runner, images)
            self._gate(
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
            self.target, models, self.onnx.parent, self.specs, self.source.label, self.settings, report
        )
        self.files += engines
        self.certificate.artefacts = [
            self.saved.result() if path == self.checkpoint else Artefact.of(path) for path in self.files
        ]

    def _simplify(self, result: Simplified, before: dict[str, Array]) -> dict[str, Array]:
        note, outputs = result.note, before
        if result.content is not None:
            original = self.onnx.read_bytes()
            write_bytes(self.onnx, result.content)
            try:
                self._audit()
                outputs = self._run_onnx()
                reference = onnx.load_model_from_string(original)
                self._gate(ONNX, "simplified", before, outputs, locate=self._layer(reference, self.onnx))
            except (CheckFailed, InputError) as error:
                note, outputs = f"{note}, but its model was refused: {error.what}", before
                self.certificate.hops = [hop for hop in self.certificate.hops if hop.result != "simplified"]
                write_bytes(self.onnx, original)
                self._audit()
        self.certificate.onnx["simplifier"] = note
        return outputs

    def _save(self) -> None:
        """Write the fused checkpoint, beside what comes after it."""
        self.saved = self.pool.submit(lambda: Artefact.of(save(self.fused, self.checkpoint)))

    def _count(self, model: nn.Module) -> Counts:
        shape = self.source.origin.input_shape
        return count(model, shape) if shape else Counts(sum(p.numel() for p in model.parameters()), None)

    def _audit(self) -> None:
        self.certificate.onnx.update(self._audited(self.onnx, self.asked))

    def _audited(self, path: Path, asked: Asked, specs: Sequence[TensorSpec] | None = None) -> dict[str, Any]:
        try:
            return audit(path, self.target, specs or self.specs, self.source.origin.output_names, asked)
        except CheckFailed as error:
            # The file itself is gone with its temporary folder.
            raise CheckFailed(error.what, where=f"{self.source.label}, {path.name}", hint=error.hint) from error

    def _run_network(self, model: nn.Module) -> dict[str, Array]:
        with network_runner(model) as runner:
            return infer_all(runner, self.inputs)

    def _run_onnx(self) -> dict[str, Array]:
        with onnx_runner(self.onnx) as runner:
            return infer_all(runner, self.inputs)

    def _gate(
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
            raise CheckFailed(f"{source} and {result} differ: {described['reason']}", where=self.source.label)

    def _module(self, model: nn.Module) -> Locate:
        """Where the ONNX begins to differ from a network."""

        def locate(tolerance: Tolerance) -> LayerError | None:
            from .first_bad_layer import first_bad_module

            return first_bad_module(model, self.onnx, named(self.inputs, self.specs), tolerance)

        return locate

    def _layer(self, reference: onnx.ModelProto, result: Path) -> Locate:
        """Where one ONNX begins to differ from another."""

        def locate(tolerance: Tolerance) -> LayerError | None:
            from .first_bad_layer import first_bad_layer

            return first_bad_layer(reference, result, named(self.inputs, self.specs), tolerance)

        return locate


def _summary(proofs: Sequence[BlockProof]) -> dict[str, Any]:
    worst = max(proofs, key=lambda proof: proof.error_float64)
    own = max(proofs, key=lambda proof: proof.error_own_dtype)
    return {
        "count": len(proofs),
        "float64": {"worst_layer": worst.layer, "max_rel_error": worst.error_float64},
        own.dtype: {"worst_layer": own.layer, "max_rel_error": own.error_own_dtype},
    }
