"""One export in its staging folder: what each hop makes, and its comparison with the one before."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from irepdeploy.certificate import Artefact, Certificate, Hop
from irepdeploy.checkpoint import save
from irepdeploy.comparator import TOLERANCES, Tolerance, compare_outputs
from irepdeploy.equivalence import infer_all, layer_errors, network_runner, onnx_runner
from irepdeploy.errors import CheckFailed, InputError
from irepdeploy.files import write_bytes
from irepdeploy.inputs import InputGroup
from irepdeploy.origin import origin_of
from irepdeploy.profiling.counts import count
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
from .simplify import simplify as simplified
from .source import metadata_of
from .target import Target
from .torch_exporter import write_onnx

__all__ = ["FUSED", "ONNX", "Export"]

Array = np.ndarray[Any, Any]
Report = Callable[[str], None]

ONNX, FUSED = "model.onnx", "fused.pt"
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
    ) -> None:
        self.source, self.target, self.groups, self.certificate = source, target, groups, certificate
        self.settings = settings
        self.onnx, self.checkpoint = staging / ONNX, staging / FUSED
        self.inputs = np.concatenate([group.array for group in groups])

    def fuse(self) -> None:
        """Make the fused state, each block proved, and hold the whole of it against the network."""
        model = self.source.model
        self.fused = model
        self.fused_outputs = self.reference = self._run_network(model)
        blocks = with_blocks(model)
        if blocks is None:
            return
        self.fused, proofs = fuse_with_proof(blocks)
        self.certificate.blocks = _summary(proofs)
        self.certificate.health = [layer.to_dict() for layer in network_health(blocks, self.fused)]
        shape = self.inputs.shape[1:]
        self.certificate.size = {
            state: dataclasses.asdict(count(net, shape)) for state, net in (("train", blocks), ("fused", self.fused))
        }
        self.fused_outputs = self._run_network(self.fused)
        layers = layer_errors(blocks, self.fused, self.groups)
        self._gate(_SOURCE, _FUSED_STATE, self.reference, self.fused_outputs, layers)

    def write(self) -> None:
        """Write ONNX and the fused checkpoint, and audit the ONNX."""
        origin = self.source.origin
        batch = 1 if self.settings.dynamic_batch is None else None
        self.specs = [TensorSpec(origin.input_name, (batch, *self.inputs.shape[1:]))]
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
        save(self.fused, self.checkpoint, input_shape=self.inputs.shape[1:])

    def compare(self) -> None:
        """Hold the ONNX against the fused state, simplify it, and hold the end against the beginning."""
        final = self._run_onnx()
        state = _SOURCE if self.fused is self.source.model else _FUSED_STATE
        self._gate(state, ONNX, self.fused_outputs, final)
        if self.settings.simplify:
            final = self._simplify(final)
        else:
            self.certificate.onnx["simplifier"] = "not run"
        if state != _SOURCE:
            self._gate(_SOURCE, ONNX, self.reference, final)
        fused = sum(parameter.numel() for parameter in self.fused.parameters())
        self.certificate.onnx["parameters"] = fused
        self.files = [self.onnx, self.checkpoint]
        self.models = {"fp32": self.onnx}
        self.onnx_outputs = final

    def lower(self, precision: str, given: str | os.PathLike[str] | Array | None) -> None:
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
            data = calibration_data(self.inputs.shape[1:], given=given, dataset=self.source.origin.dataset)
            found, kept = write_int8(model, data, path, target=self.target, max_drop=self.settings.max_drop)
        self.certificate.precisions[precision] = found
        self.models[precision] = path
        if path == self.onnx:
            return
        asked = dataclasses.replace(self.asked, precision=precision, kept=kept)
        found["onnx"] = audit(path, self.target, self.specs, self.source.origin.output_names, asked)
        self.files.append(path)
        with onnx_runner(path) as runner:
            outputs = infer_all(runner, self.inputs)
        self._gate(ONNX, path.name, self.onnx_outputs, outputs, tolerance=tolerance_of_precision(precision))

    def bake(self, preprocessing: Preprocessing) -> None:
        """Let every file take uint8 images, and hold each against what it was on the same images, normalised."""
        channels, height, width = self.inputs.shape[1:]
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
            facts = audit(path, self.target, specs, self.source.origin.output_names, asked)
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
        self.certificate.artefacts = [Artefact.of(path) for path in self.files]

    def _simplify(self, before: dict[str, Array]) -> dict[str, Array]:
        original = self.onnx.read_bytes()
        result = simplified(original, self.onnx.parent)
        note, outputs = result.note, before
        if result.changed:
            write_bytes(self.onnx, result.content)
            try:
                self._audit()
                outputs = self._run_onnx()
                self._gate(ONNX, "simplified", before, outputs)
            except (CheckFailed, InputError) as error:
                note, outputs = f"{note}, but its model was refused: {error.what}", before
                self.certificate.hops = [hop for hop in self.certificate.hops if hop.result != "simplified"]
                write_bytes(self.onnx, original)
                self._audit()
        self.certificate.onnx["simplifier"] = note
        return outputs

    def _audit(self) -> None:
        names = self.source.origin.output_names
        self.certificate.onnx.update(audit(self.onnx, self.target, self.specs, names, self.asked))

    def _run_network(self, model: nn.Module) -> dict[str, Array]:
        with network_runner(model, self.inputs.shape[1:]) as runner:
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
    ) -> None:
        comparison = compare_outputs(a, b, tolerance, layers=layers)
        inputs = [group.to_dict() for group in self.groups] if inputs is None else inputs
        self.certificate.hops.append(Hop(source, result, inputs, comparison.to_dict()))
        if not comparison.ok:
            raise CheckFailed(f"{source} and {result} differ: {comparison.reason}", where=self.source.label)


def _summary(proofs: Sequence[BlockProof]) -> dict[str, Any]:
    worst = max(proofs, key=lambda proof: proof.error_float64)
    own = max(proofs, key=lambda proof: proof.error_own_dtype)
    return {
        "count": len(proofs),
        "float64": {"worst_layer": worst.layer, "max_rel_error": worst.error_float64},
        own.dtype: {"worst_layer": own.layer, "max_rel_error": own.error_own_dtype},
    }
