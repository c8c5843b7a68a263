"""The `export` command."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from irepdeploy.cli.completion import names
from irepdeploy.cli.options import (
    InputShapeOption,
    InputsOption,
    JsonOption,
    ModelOption,
    SeedOption,
    SourceArgument,
    TimeoutOption,
)
from irepdeploy.console import ProgressTask, log, print_json, progress
from irepdeploy.errors import InputError

from .output import explain as explain_onnx
from .output import show

__all__ = ["export"]


def _targets() -> list[str]:
    from .target.target import TARGETS

    return list(TARGETS)


def export(
    source: SourceArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output folder, created if missing. [SOURCE-export]")
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="Deployment target: ort, trt, trt-10, trt-11, xavier-jp5, orin-jp6 or rtx.",
            autocompletion=names(_targets),
        ),
    ] = "ort",
    trt: Annotated[bool, typer.Option("--trt", help="Same as --target trt.")] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="One or more of fp32,fp16,int8. [fp32; for an engine fp32,fp16]",
            autocompletion=names(lambda: ("fp32", "fp16", "int8")),
        ),
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="Largest loss of accuracy by int8, in percentage points.")
    ] = 0.5,
    inputs: InputsOption = None,
    model: ModelOption = None,
    seed: SeedOption = 0,
    dynamic_batch: Annotated[
        str | None, typer.Option("--dynamic-batch", metavar="MIN:OPT:MAX", help="Dynamic batch, such as 1:8:32.")
    ] = None,
    input_shape: InputShapeOption = None,
    output_names: Annotated[
        str | None, typer.Option("--output-names", help="Names of the outputs in order, such as a,b.")
    ] = None,
    detections: Annotated[
        str,
        typer.Option(
            "--detections",
            metavar="MODE",
            help="Output of a detector: raw heads (raw), best detections (topk), best detections after non-maximum "
            "suppression (nms), or the same with TensorRT's EfficientNMS_TRT (plugin).",
        ),
    ] = "raw",
    score: Annotated[
        float | None, typer.Option("--score", help="Score threshold of detections. [the detector's own]")
    ] = None,
    iou: Annotated[
        float | None,
        typer.Option("--iou", help="IoU above which the lower-scored box is suppressed. [the detector's own]"),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option("--max-detections", help="Maximum number of detections per image. [the detector's own]"),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            metavar="FILE",
            help="Objects in the images of --inputs, in COCO format, to measure the loss of a detector in int8. "
            "[annotations.json next to them, or the detections of the float32 detector]",
        ),
    ] = None,
    bake_preprocess: Annotated[
        str | None,
        typer.Option(
            "--bake-preprocess",
            metavar="LAYOUT,ORDER",
            help="Make the model take uint8 images: nhwc or nchw, rgb or bgr.",
        ),
    ] = None,
    mean: Annotated[
        str | None, typer.Option("--mean", help="Mean of each channel, for --bake-preprocess. [the data set's]")
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", help="Standard deviation of each channel. [the data set's]")
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Allow float32 layers of an engine to round to TF32.")] = False,
    workspace: Annotated[
        str | None, typer.Option("--workspace", help="Memory limit of the builder, such as 1GiB. [its default]")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option("--timing-cache", help="File in which the builder keeps timings between runs.")
    ] = None,
    dla: Annotated[int | None, typer.Option("--dla", min=0, help="DLA core, if the target has one.")] = None,
    no_simplify: Annotated[bool, typer.Option("--no-simplify", help="Do not run onnx-simplifier.")] = False,
    external_data: Annotated[
        bool,
        typer.Option(
            "--external-data", help="Write the weights to FILE.data next to the ONNX file (always done above 2 GiB)."
        ),
    ] = False,
    no_collapse: Annotated[bool, typer.Option("--no-collapse", help="Keep all operators; do not merge any.")] = False,
    border: Annotated[
        str,
        typer.Option(
            "--border",
            help="For regions that are not a convolution at the border: refuse to merge them, or merge them and add a "
            "constant map.",
        ),
    ] = "refuse",
    explain: Annotated[bool, typer.Option("--explain", help="Print what would be merged, and write nothing.")] = False,
    timeout: TimeoutOption = 300.0,
    as_json: JsonOption = False,
) -> None:
    """Fuse a network, write ONNX, verify the outputs after every step, and certify the result.

    Parallel and chained linear operators of the ONNX graph are merged into single convolutions.

    Example: irepdeploy export run/trained.pt --out build
    """
    if border not in ("refuse", "map"):
        raise InputError(f"expected refuse or map, got {border!r}", where="--border")
    onnx_given = Path(source).suffix.lower() == ".onnx"
    if explain:
        if no_collapse:
            raise InputError("--explain lists what --no-collapse would leave out", hint="give one of them")
        _explain(source, model, inputs, seed, target, border, as_json, input_shape)
        return
    from irepdeploy.verify.onnx_process import start_onnx_process

    from .simplify import Simplifier

    # Read when torch is loaded. Spinning threads take the core that the simplifier needs, and on a busy machine they
    # cost several times their work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Both import their modules while torch is imported here.
    start_onnx_process()
    with contextlib.nullcontext() if no_simplify or onnx_given else Simplifier() as simplifier:
        with _without_collector():
            from irepdeploy.network.factory import load_model_factory
            from irepdeploy.runtime.memory import parse_size
            from irepdeploy.verify.input_spec import input_specs

            from .pipeline import certified_export, step_count
            from .request.export_request import ExportRequest
            from .request.parse import batch_range
            from .request.settings import Settings

        if trt and target not in ("ort", "trt"):
            raise InputError(f"--trt and --target {target} name different targets", hint="give one of them")
        folder = out or Path(f"{Path(source.removesuffix(':random')).stem}-export")
        settings = Settings(
            precision=precision,
            max_drop=max_drop,
            simplify=not no_simplify,
            dynamic_batch=None if dynamic_batch is None else batch_range(dynamic_batch),
            input_shape=input_specs(input_shape or ()),
            output_names=None if output_names is None else tuple(output_names.split(",")),
            detections=detections,
            score=score,
            iou=iou,
            max_detections=max_detections,
            annotations=annotations,
            bake_preprocess=bake_preprocess,
            mean=_floats(mean, "--mean"),
            std=_floats(std, "--std"),
            tf32=tf32,
            workspace_bytes=None if workspace is None else parse_size(workspace),
            timing_cache=None if timing_cache is None else str(timing_cache),
            dla=dla,
            collapse=not no_collapse,
            external_data=external_data,
            border="map" if border == "map" else "refuse",
            timeout_s=timeout,
        )
        request = ExportRequest(
            source=source,
            out=folder,
            target="trt" if trt else target,
            model_factory=load_model_factory(model) if model else None,
            inputs=inputs,
            seed=seed,
            settings=settings,
        )
        news = f"{source}: linear regions become single convolutions (--no-collapse keeps them)"
        with progress() as display:
            task = display.task(f"export {Path(source).name}", total=step_count(request))
            certificate = certified_export(
                request,
                report=lambda step: _advance(task, step, news if onnx_given and settings.collapse else None),
                simplifier=simplifier,
            )
    if as_json:
        print_json(certificate.to_dict())
    else:
        show(certificate, folder, model)
    certificate.require_engine()


def _explain(
    source: str,
    model: str | None,
    inputs: Path | None,
    seed: int,
    target: str,
    border: str,
    as_json: bool,
    input_shape: list[str] | None,
) -> None:
    from irepdeploy.verify.input_spec import input_specs

    specs, request = input_specs(input_shape or ()), None
    if Path(source).suffix.lower() != ".onnx":
        from irepdeploy.network.factory import load_model_factory

        from .request.export_request import ExportRequest
        from .request.settings import Settings

        factory = load_model_factory(model) if model else None
        request = ExportRequest(source, Path(), target, factory, inputs, seed, Settings(input_shape=specs))
    elif model:
        raise InputError("an ONNX file needs no class", where="--model", hint="omit it")
    explain_onnx(source, border, as_json, specs, request)


def _advance(task: ProgressTask, step: str, news: str | None) -> None:
    # At this point the file is known to be readable.
    if news is not None and step == "loaded":
        log(news)
    task.advance(note=step)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Import without the garbage collector, which would traverse hundreds of thousands of permanent objects."""
    if "torch" in sys.modules:
        # Already imported, or in the process of another program.
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _floats(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(map(math.isfinite, found)):
        raise InputError(f"expected numbers such as 0.485,0.456,0.406, got {text!r}", where=option)
    return found
