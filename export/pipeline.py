"""Export a network or an ONNX file: verify after every step, then publish the files with their certificate."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from irepdeploy.errors import CheckFailed, InputError
from irepdeploy.files import move_files
from irepdeploy.folders import make_folder, output_folder, staging_folder
from irepdeploy.verify.certificate import Artefact, Certificate
from irepdeploy.verify.onnx_process import time_limit

from .detections import add_detections, check_detections
from .engine.engines import target_here
from .exportable import Exportable
from .job import Job, Report
from .network_export import NetworkExport
from .onnx_export import OnnxExport
from .precision.precisions import precisions_of
from .prepared import Prepared
from .request.arguments import request_of
from .request.export_request import ExportRequest
from .simplify import Simplifier
from .steps import add_engines, add_precision, bake_preprocessing
from .target.target import target_of

__all__ = ["certified_export", "export_model", "step_count"]

CERTIFICATE, FAILED = "certificate.json", "certificate.failed.json"


def export_model(
    source: str | os.PathLike[str] | nn.Module,
    out: str | os.PathLike[str] | None = None,
    *,
    target: str = "ort",
    model_factory: Callable[[], nn.Module] | None = None,
    inputs: Any = None,
    seed: int = 0,
    **settings: Any,
) -> Certificate:
    """Fuse a network, write it as ONNX, verify the outputs after every step, and certify the result.

    An ONNX file, given or written, is collapsed: single convolutions replace its parallel and chained linear operators.

    ``model.onnx``, ``fused.pt`` (of a network) and ``certificate.json`` appear in `out` together, after every check has
    passed. If a check fails, nothing there changes, and ``certificate.failed.json`` gives the reason.

    Args:
        source: Checkpoint, name of a network (with seeded random weights and statistics), network in eval mode, or
            ``.onnx`` file.
        out: Output folder, created if missing. None: ``NAME-export``, as for the command.
        target: Name in `TARGETS`.
        model_factory: Function that builds the network of a foreign checkpoint.
        inputs: Inputs to compare on instead of the default ones: an array or tensor (N, C, H, W) or (C, H, W); for a
            network with several inputs, one (N, ...) each, as a tuple in order or by name; or a file or folder that
            `read_inputs` accepts.
        seed: Seed of random inputs, and of a network given by name.
        settings: Fields of `Settings`: precision, max_drop, simplify, dynamic_batch, bake_preprocess, ...

    Returns:
        The certificate, which lists every comparison and the digest of every file.

    Raises:
        CheckFailed: A check failed.
        InputError: The network cannot be fused or written, or an argument does not fit it.
        MissingError: A requested engine cannot be built here; the verified ONNX is written nevertheless.
        RunError: The disk is full, or another run has locked `out`.
    """
    request = request_of(source, out, target, model_factory, inputs, seed, settings)
    certificate = certified_export(request)
    certificate.require_engine()
    return certificate


def certified_export(
    request: ExportRequest, *, report: Report = lambda step: None, simplifier: Simplifier | None = None
) -> Certificate:
    """Run an export like `export_model`, but only record in the certificate if an engine was not built.

    Without a running `simplifier`, one is started if the settings require it.
    """
    target = target_here(target_of(request.target))
    if request.settings.external_data and target.engine is not None:
        raise InputError("an engine is built from a single ONNX file", where="--external-data", hint="omit it")
    source = _kind_of(request.source).open(request)
    precisions = precisions_of(request.settings.precision, target, source.carried)
    preprocessing = request.settings.preprocessing(source.origin)
    detector = check_detections(source, request.settings, precisions, given=request.inputs is not None)
    with output_folder(request.out) as folder:
        opset, ir_version = source.versions(target)
        certificate = Certificate(source.facts, {"name": target.name, "opset": opset, "ir_version": ir_version})
        report("loaded")
        try:
            with staging_folder(folder) as staging, time_limit(request.settings.timeout_s):
                job = Job(request, target, source, certificate, staging, report, simplifier)
                prepared = source.prepare(job)
                for name in precisions:
                    if name != "fp32":
                        prepared = add_precision(job, prepared, name)
                        report(name)
                if detector is not None:
                    prepared = add_detections(job, prepared, detector, preprocessing)
                if preprocessing is not None:
                    prepared = bake_preprocessing(job, prepared, preprocessing)
                prepared = add_engines(job, prepared, precisions)
                certificate.artefacts = prepared.artefacts()
                _publish(prepared, certificate, staging, folder)
                report("certified")
        except CheckFailed as error:
            certificate.failure = error.line
            certificate.artefacts = []
            certificate.save(folder / FAILED)
            raise
    return certificate


def step_count(request: ExportRequest) -> int:
    """Return the largest number of steps that `certified_export` reports."""
    target = target_of(request.target)
    precisions = precisions_of(request.settings.precision, target)
    lower = sum(name != "fp32" for name in precisions)
    engines = len(precisions) if target.engine and not target.on_board else 0
    return len(["loaded", *_kind_of(request.source).STEPS, "certified"]) + lower + engines


def _kind_of(source: object) -> type[Exportable]:
    is_onnx = isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".onnx"
    return OnnxExport if is_onnx else NetworkExport


def _earlier(folder: Path) -> list[Artefact]:
    """Return the files that an earlier export left in the folder, according to its certificate."""
    try:
        return Certificate.load(folder / CERTIFICATE).artefacts
    except InputError:
        return []


def _publish(prepared: Prepared, certificate: Certificate, staging: Path, folder: Path) -> None:
    """Move everything into place, the certificate last; if one file cannot be moved, `folder` stays as it was."""
    saved = certificate.save(prepared.onnx.parent / CERTIFICATE)
    stale = {artefact.file for artefact in _earlier(folder)} - {path.name for path in prepared.files}
    # Earlier files without a replacement are removed before the certificate that lists them: if killed in between, the
    # next export still finds the others, and the certificate shows which are missing.
    aside = make_folder(staging / "earlier")
    move_files([*prepared.files, saved], folder, aside, remove=[FAILED, *sorted(stale)])
