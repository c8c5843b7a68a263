"""From a network or an ONNX file to a verified ONNX and what is made of it, compared after every hop."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import CheckFailed, InputError, ModelError
from irepdeploy.files import move_file, output_folder, remove_file, staging_folder
from irepdeploy.network.source import Source
from irepdeploy.reparam.fuse import check_fusable
from irepdeploy.reparam.origin import origin_of, set_origin, with_inputs
from irepdeploy.verify.certificate import Artefact, Certificate
from irepdeploy.verify.input_files import read_inputs
from irepdeploy.verify.inputs import Given, Inputs, gather_inputs, mapped

from .deployment import Deployment
from .engine.engines import target_here
from .hops import Export
from .onnx_hops import OnnxExport
from .onnx_source import OnnxSource, is_onnx, open_onnx
from .precision.precisions import precisions_of
from .request.settings import Settings
from .simplify import Simplifier
from .source import open_for_export
from .target.target import target_of
from .writer.onnx_from_torch import named_outputs

__all__ = ["certified_export", "export_model", "step_count"]

Report = Callable[[str], None]

CERTIFICATE, FAILED = "certificate.json", "certificate.failed.json"


def export_model(
    source: str | os.PathLike[str] | nn.Module,
    out: str | os.PathLike[str],
    *,
    target: str = "ort",
    model_factory: Callable[[], nn.Module] | None = None,
    inputs: Given | None = None,
    seed: int = 0,
    **settings: Any,
) -> Certificate:
    """Fuse a network, write it as ONNX, prove at every hop that its outputs are the same, and certify it.

    An ONNX file is collapsed instead: single convolutions take the place of its parallel and chained linear operators.

    ``model.onnx``, ``fused.pt`` (of a network) and ``certificate.json`` appear in `out` together, after every check has
    passed. After a failed one nothing there has changed, and ``certificate.failed.json`` tells why.

    Args:
        source: a checkpoint, the name of a network (it gets seeded random weights and statistics), a network in eval
            mode, or an ``.onnx`` file.
        out: a folder, made if it is not there.
        target: a name in `TARGETS`.
        model_factory: builds the class of a foreign checkpoint.
        inputs: (N, C, H, W) or (C, H, W) float32, for a network of several inputs one array (N, ...) a name, or where
            `read_inputs` finds some, in the place of real inputs.
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
    inputs: Given | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    report: Callable[[str], None] = lambda step: None,
    simplifier: Simplifier | None = None,
) -> Certificate:
    """`export_model`, but an engine that is not built is only noted in the certificate.

    Args:
        report: called with the name of each step that is done.
        simplifier: one that runs already; default: started here where `settings` ask for it.
    """
    settings = settings or Settings()
    wanted = target_here(target_of(target))
    precisions = precisions_of(settings.precision, wanted)
    opened: Source | OnnxSource
    if is_onnx(source):
        _refuse_for_onnx(model_factory)
        opened = open_onnx(os.fspath(source), settings, inputs)
    else:
        _refuse_for_networks(settings)
        opened = open_for_export(source, model_factory, seed)
        check_fusable(opened.model)
        opened = _with_inputs(opened, settings.inputs or _told_by(opened, inputs))
    preprocessing = settings.preprocessing(opened.origin)
    groups = gather_inputs(opened.origin.specs, given=inputs, dataset=opened.origin.dataset, seed=seed)
    if isinstance(opened, Source) and (
        settings.output_names is not None or settings.input_shape is not None or opened.origin.net is None
    ):
        opened = _with_output_names(opened, settings.output_names, groups[0].array)
    folder = output_folder(out)
    opset, ir_version = wanted.opset, wanted.ir_version
    if isinstance(opened, OnnxSource):
        opset, ir_version = opened.opset, opened.ir_version
        settings = dataclasses.replace(settings, simplify=False)
    certificate = Certificate(opened.facts, {"name": wanted.name, "opset": opset, "ir_version": ir_version})
    report("loaded")
    try:
        with (
            staging_folder(folder) as staging,
            _running(simplifier, settings) as simplifier,
            ThreadPoolExecutor(1) as pool,
        ):
            export: Deployment
            if isinstance(opened, OnnxSource):
                export = OnnxExport(opened, wanted, groups, certificate, staging, settings)
            else:
                export = Export(opened, wanted, groups, certificate, staging, settings, simplifier, pool=pool)
            export.prepare(report)
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


def step_count(target: str, precision: str | Sequence[str] | None, *, onnx: bool = False) -> int:
    """How many steps `certified_export` reports at the most, of an ONNX file or else of a network."""
    wanted = target_of(target)
    precisions = precisions_of(precision, wanted)
    lower = sum(name != "fp32" for name in precisions)
    return (4 if onnx else 5) + lower + (len(precisions) if wanted.engine and not wanted.on_board else 0)


def _running(simplifier: Simplifier | None, settings: Settings) -> contextlib.AbstractContextManager[Simplifier | None]:
    return contextlib.nullcontext(simplifier) if simplifier or not settings.simplify else Simplifier()


def _refuse_for_onnx(model_factory: Callable[[], nn.Module] | None) -> None:
    if model_factory is not None:
        raise InputError("an ONNX file needs no class", where="--model", hint="leave it out")


def _refuse_for_networks(settings: Settings) -> None:
    if not settings.collapse or settings.border != "refuse":
        option = "--border" if settings.collapse else "--no-collapse"
        raise InputError("only ONNX files are collapsed", where=option, hint="leave it out: branches are always fused")


def _told_by(source: Source, given: Given | None) -> Sequence[TensorSpec]:
    """What the network reads, as it says itself, else as the inputs given are."""
    origin = source.origin
    if origin.specs:
        return origin.specs
    if given is None:
        raise InputError(
            "it does not say what inputs it takes",
            where=source.label,
            hint="give --input-shape 1xCxHxW or --inputs FILE.npy, or save(net, path, input_shape=(C, H, W))",
        )
    found: Any = read_inputs(given).array if isinstance(given, str | os.PathLike) else given
    if not isinstance(found, Mapping):
        found = {origin.input_name: found if found.ndim != 3 else found[None]}
    return [TensorSpec(name, (None, *array.shape[1:]), array.dtype.name) for name, array in found.items()]


def _with_inputs(source: Source, specs: Sequence[TensorSpec]) -> Source:
    """The source with an Origin that says that its network reads these, in the order of its ``forward``."""
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise InputError(
            f"inputs of one name: {', '.join(names)}", where="--input-shape", hint="NAME:1x3x224x224 for each"
        )
    if any(len(spec.shape) == 0 for spec in specs):
        raise InputError("an input without a batch", where=source.label)
    parameters = list(inspect.signature(source.model.forward).parameters)
    if set(names) <= set(parameters):
        specs = sorted(specs, key=lambda spec: parameters.index(spec.name))
    return dataclasses.replace(source, model=with_inputs(_twin(source.model), specs))


def _with_output_names(source: Source, names: Sequence[str] | None, example: Inputs) -> Source:
    """The source with an Origin that names what its network really gives."""
    tensors = mapped(example, lambda array: torch.from_numpy(array[:1]))
    given = list(tensors.values()) if isinstance(tensors, dict) else [tensors]
    try:
        with torch.inference_mode():
            returned = source.model(*given)
    except Exception as error:  # whatever a foreign forward raises
        shapes = ", ".join(map(str, source.origin.specs))
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"forward does not take {shapes}: {text}", where=source.label) from error
    known = names or (source.origin.output_names if isinstance(returned, torch.Tensor) else None)
    found = tuple(named_outputs(returned, torch.Tensor, known, source.label))
    if found == source.origin.output_names:
        return source
    return dataclasses.replace(source, model=set_origin(_twin(source.model), output_names=found))


def _twin(model: nn.Module) -> nn.Module:
    """A shallow copy, so that a network in memory keeps its own Origin."""
    # That of a GraphModule forgets both.
    return set_origin(copy.copy(model).eval(), origin_of(model))


def _earlier(folder: Path) -> list[Artefact]:
    """What an earlier export left in the folder, by its certificate."""
    try:
        return Certificate.load(folder / CERTIFICATE).artefacts
    except InputError:
        return []


def _publish(export: Deployment, folder: Path) -> None:
    """Move everything into place; the old certificate goes first and the new one comes last."""
    certificate = export.certificate.save(export.onnx.parent / CERTIFICATE)
    stale = {artefact.file for artefact in _earlier(folder)} - {path.name for path in export.files}
    for name in (FAILED, CERTIFICATE, *sorted(stale)):
        remove_file(folder / name)
    for path in (*export.files, certificate):
        move_file(path, folder / path.name)
