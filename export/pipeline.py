"""From a network to a verified ONNX: fuse, write, audit, simplify, and compare after every hop."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from irepdeploy.certificate import Artefact, Certificate, Hop
from irepdeploy.checkpoint import save
from irepdeploy.comparator import TOLERANCES, Tolerance, compare_outputs
from irepdeploy.equivalence import infer_all, layer_errors, network_runner, onnx_runner
from irepdeploy.errors import CheckFailed, InputError
from irepdeploy.files import move_file, output_folder, remove_file, staging_folder, write_bytes
from irepdeploy.inputs import InputGroup, gather_inputs, read_inputs
from irepdeploy.origin import origin_of, set_origin
from irepdeploy.profiling.health import network_health
from irepdeploy.reparam.fuse import BlockProof, check_fusable, fuse_with_proof
from irepdeploy.runtime.runner import TensorSpec
from irepdeploy.source import Source, with_blocks

from .audit import Asked, audit
from .calibration import calibration_data
from .engines import engines_for, target_here
from .onnx_from_torch import named_outputs, serialized
from .precisions import carried_by_fp32, precisions_of, tolerance_of_precision, write_fp16, write_int8
from .preprocess import Preprocessing, with_preprocessing
from .settings import Settings
from .simplify import simplify as simplified
from .source import metadata_of, open_for_export
from .target import Target, target_of
from .torch_exporter import write_onnx

__all__ = ["certified_export", "export_model", "step_count"]

Array = np.ndarray[Any, Any]
Report = Callable[[str], None]

ONNX, FUSED, CERTIFICATE, FAILED = "model.onnx", "fused.pt", "certificate.json", "certificate.failed.json"
_SOURCE = "network"
_FUSED_STATE = "fused state"


def export_model(
    source: str | os.PathLike[str] | nn.Module,
    out: str | os.PathLike[str],
    *,
    target: str = "ort",
    model_factory: Callable[[], nn.Module] | None = None,
    inputs: str | os.PathLike[str] | Array | None = None,
    seed: int = 0,
    **settings: Any,
) -> Certificate:
    """Fuse a network, write it as ONNX, prove at every hop that its outputs are the same, and certify it.

    ``model.onnx``, ``fused.pt`` and ``certificate.json`` appear in `out` together, after every check has passed. After
    a failed one nothing there has changed, and ``certificate.failed.json`` tells why.

    Args:
        source: a checkpoint, the name of a network (it gets seeded random weights and statistics), or a network in eval
            mode.
        out: a folder, made if it is not there.
        target: a name in `TARGETS`.
        model_factory: builds the class of a foreign checkpoint.
        inputs: (N, C, H, W) or (C, H, W) float32, or where `read_inputs` finds some, in the place of real inputs.
        seed: of random inputs, and of a network by name.
        settings: fields of `Settings`: precision, max_drop, simplify, dynamic_batch, bake_preprocess, ...

    Raises:
        CheckFailed: a check's verdict was no.
        InputError: the network cannot be fused or written, or something given does not fit.
        MissingError: an engine was asked for and cannot be built here; the verified ONNX is there all the same.
        RunError: the disk is full.
    """
    certificate = certified_export(
        source,
        out,
        target=target,
        model_factory=model_factory,
        inputs=inputs,
        seed=seed,
        settings=Settings(**settings),
    )
    certificate.require_engine()
    return certificate


def certified_export(
    source: str | os.PathLike[str] | nn.Module,
    out: str | os.PathLike[str],
    *,
    target: str = "ort",
    model_factory: Callable[[], nn.Module] | None = None,
    inputs: str | os.PathLike[str] | Array | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    report: Callable[[str], None] = lambda step: None,
) -> Certificate:
    """`export_model`, but an engine that is not built is only noted in the certificate.

    Args:
        report: called with the name of each step that is done.
    """
    settings = settings or Settings()
    wanted = target_here(target_of(target))
    precisions = precisions_of(settings.precision, wanted)
    opened = open_for_export(source, model_factory, seed)
    check_fusable(opened.model)
    if settings.input_shape is not None:
        opened = _with_input(opened, settings.input_shape)
    groups = _inputs(opened, inputs, seed)
    opened = _with_output_names(opened, settings.output_names, groups[0].array)
    preprocessing = settings.preprocessing(opened.origin)
    folder = output_folder(out)
    certificate = Certificate(
        opened.facts, {"name": wanted.name, "opset": wanted.opset, "ir_version": wanted.ir_version}
    )
    report("loaded")
    try:
        with staging_folder(folder) as staging:
            export = _Export(opened, wanted, groups, certificate, staging, settings)
            export.fuse()
            report("fused")
            export.write()
            report("written")
            export.compare()
            report("compared")
            for name in precisions:
                if name != "fp32":
                    export.lower(name, inputs)
                    report(name)
            if preprocessing is not None:
                export.bake(preprocessing)
            export.build(precisions, report)
            _publish(export, folder)
            report("certified")
    except CheckFailed as error:
        certificate.failure = error.line
        certificate.artefacts = []
        certificate.save(folder / FAILED)
        raise
    return certificate


def step_count(target: str, precision: str | Sequence[str] | None) -> int:
    """How many steps `certified_export` reports at the most."""
    wanted = target_of(target)
    precisions = precisions_of(precision, wanted)
    lower = sum(name != "fp32" for name in precisions)
    return 5 + lower + (len(precisions) if wanted.engine and not wanted.on_board else 0)


class _Export:
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


def _inputs(source: Source, given: str | os.PathLike[str] | Array | None, seed: int) -> list[InputGroup]:
    origin = source.origin
    shape = origin.input_shape
    if not shape:
        if given is None:
            raise InputError(
                "it does not say what inputs it takes",
                where=source.label,
                hint="give --input-shape 1xCxHxW or --inputs FILE.npy, or save(net, path, input_shape=(C, H, W))",
            )
        named = isinstance(given, str | os.PathLike)
        shape = read_inputs(given).array.shape[1:] if named else np.shape(given)[-3:]  # type: ignore[arg-type]
    return gather_inputs(tuple(shape), given=given, dataset=origin.dataset, seed=seed)


def _with_input(source: Source, spec: TensorSpec) -> Source:
    """The source with an Origin that says that its network reads this."""
    if len(spec.shape) != 4 or spec.dtype != "float32":
        raise InputError(f"{spec} is no image input in float32", where="--input-shape", hint="name:1x3x224x224")
    # A network in memory keeps its own.
    model = set_origin(copy.copy(source.model), input_shape=tuple(spec.shape[1:]), input_name=spec.name)
    return dataclasses.replace(source, model=model)


def _with_output_names(source: Source, names: Sequence[str] | None, example: Array) -> Source:
    """The source with an Origin that names what its network really gives."""
    if names is None and source.origin.net is not None:
        return source
    with torch.inference_mode():
        returned = source.model(torch.from_numpy(example[:1]))
    known = names or (source.origin.output_names if isinstance(returned, torch.Tensor) else None)
    found = tuple(named_outputs(returned, torch.Tensor, known, source.label))
    if found == source.origin.output_names:
        return source
    # A network in memory keeps its own names.
    model = copy.copy(source.model)
    return dataclasses.replace(source, model=set_origin(model, output_names=found))


def _summary(proofs: Sequence[BlockProof]) -> dict[str, Any]:
    worst = max(proofs, key=lambda proof: proof.error_float64)
    own = max(proofs, key=lambda proof: proof.error_own_dtype)
    return {
        "count": len(proofs),
        "float64": {"worst_layer": worst.layer, "max_rel_error": worst.error_float64},
        own.dtype: {"worst_layer": own.layer, "max_rel_error": own.error_own_dtype},
    }


def _earlier(folder: Path) -> list[Artefact]:
    """What an earlier export left in the folder, by its certificate."""
    try:
        return Certificate.load(folder / CERTIFICATE).artefacts
    except InputError:
        return []


def _publish(export: _Export, folder: Path) -> None:
    """Move everything into place; the old certificate goes first and the new one comes last."""
    certificate = export.certificate.save(export.onnx.parent / CERTIFICATE)
    stale = {artefact.file for artefact in _earlier(folder)} - {path.name for path in export.files}
    for name in (FAILED, CERTIFICATE, *sorted(stale)):
        remove_file(folder / name)
    for path in (*export.files, certificate):
        move_file(path, folder / path.name)
