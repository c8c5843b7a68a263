"""From a network to a verified ONNX: fuse, write, audit, simplify, and compare after every hop."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from irepdeploy.certificate import Artefact, Certificate
from irepdeploy.errors import CheckFailed, InputError
from irepdeploy.files import move_file, output_folder, remove_file, staging_folder
from irepdeploy.inputs import InputGroup, gather_inputs, read_inputs
from irepdeploy.origin import set_origin
from irepdeploy.reparam.fuse import check_fusable
from irepdeploy.runtime.runner import TensorSpec
from irepdeploy.source import Source

from .engines import target_here
from .hops import Export
from .onnx_from_torch import named_outputs
from .precisions import precisions_of
from .settings import Settings
from .source import open_for_export
from .target import target_of

__all__ = ["certified_export", "export_model", "step_count"]

Array = np.ndarray[Any, Any]
Report = Callable[[str], None]

CERTIFICATE, FAILED = "certificate.json", "certificate.failed.json"


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
            export = Export(opened, wanted, groups, certificate, staging, settings)
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


def _earlier(folder: Path) -> list[Artefact]:
    """What an earlier export left in the folder, by its certificate."""
    try:
        return Certificate.load(folder / CERTIFICATE).artefacts
    except InputError:
        return []


def _publish(export: Export, folder: Path) -> None:
    """Move everything into place; the old certificate goes first and the new one comes last."""
    certificate = export.certificate.save(export.onnx.parent / CERTIFICATE)
    stale = {artefact.file for artefact in _earlier(folder)} - {path.name for path in export.files}
    for name in (FAILED, CERTIFICATE, *sorted(stale)):
        remove_file(folder / name)
    for path in (*export.files, certificate):
        move_file(path, folder / path.name)
