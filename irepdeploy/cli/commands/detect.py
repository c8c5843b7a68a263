"""The `detect` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from irepdeploy.cli.options import JsonOption, ModelOption
from irepdeploy.console import log, print_json, progress, say, table
from irepdeploy.errors import CheckFailed, InputError, counted

if TYPE_CHECKING:
    from irepdeploy.inference.folder import FolderDetections

__all__ = ["detect"]

_MOST_ROWS = 20


def detect(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Checkpoint of a detector, or an ONNX file or engine exported with --detections topk or nms.",
        ),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Images, or folders of images.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the annotated images and detections.json.")
    ] = Path("detections"),
    score: Annotated[
        float, typer.Option("--score", min=0, max=1, help="Minimum score of the detections to show.")
    ] = 0.3,
    annotations: Annotated[
        Path | None,
        typer.Option("--annotations", metavar="FILE", help="Annotations in COCO format; prints the average precision."),
    ] = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Detect objects in images; write the images with boxes, and the detections in COCO format.

    With --annotations, give one folder that contains all annotated images. Damaged images are skipped; the exit code is
    then 1.

    Example: irepdeploy detect build-d/model.onnx runs/d/samples --out pictures
    """
    from irepdeploy.data.coco_annotations import read_coco
    from irepdeploy.folders import output_folder
    from irepdeploy.inference.folder import annotated_files, detect_files, image_files
    from irepdeploy.inference.opened import open_detector
    from irepdeploy.network.factory import load_model_factory

    known = None if annotations is None else read_coco(annotations)
    if known is None:
        files = image_files(images)
    else:
        if len(images) != 1:
            raise InputError("expected one folder of images", where="--annotations")
        files = annotated_files(images[0], known)
    opened = open_detector(source, load_model_factory(model) if model else None)
    with output_folder(out) as folder, opened, progress() as display:
        task = display.task(f"detect {Path(source).name}", total=len(files))
        result = detect_files(
            opened, files, folder, score=score, annotations=known, report=lambda name: task.advance(note=name)
        )
    if as_json:
        print_json(_summary(result))
    else:
        _show(result, source, score, out)
    if result.broken:
        first = next(iter(result.broken))
        raise CheckFailed(
            f"{counted(len(result.broken), 'image')} of {len(files)} skipped: {result.broken[first]}", where=first
        )


def _summary(result: FolderDetections) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "images": {str(path): len(found) for path, found in result.found.items()},
        "skipped": {str(path): why for path, why in result.broken.items()},
        "times_ms": _means(result),
        "precision": None if result.precision is None else asdict(result.precision),
    }


def _means(result: FolderDetections) -> dict[str, float]:
    names = {"before": "before_ms", "network": "network_ms", "after": "after_ms"}
    count = max(len(result.times), 1)
    return {name: sum(getattr(each, key) for each in result.times) / count for name, key in names.items()}


def _show(result: FolderDetections, source: str, score: float, out: Path) -> None:
    rows = []
    for path, found in list(result.found.items())[:_MOST_ROWS]:
        best = found.above(score)
        names = ", ".join(
            f"{found.name_of(label)} {value:.2f}"
            for label, value in zip(best.labels.tolist()[:4], best.scores.tolist()[:4], strict=True)
        )
        rows.append([path.name, len(best), names + (", ..." if len(best) > 4 else "")])
    table(f"{source}: detections of at least {score:g}", ["image", "found", "best"], rows)
    if len(result.found) > _MOST_ROWS:
        say(f"and {counted(len(result.found) - _MOST_ROWS, 'more image')}")
    if result.precision is not None:
        precision = result.precision
        values = (precision.ap, precision.ap50, precision.ap75, precision.small, precision.medium, precision.large)
        cells = ["-" if value is None else f"{value:.1%}" for value in values]
        columns = ["AP", "AP50", "AP75", "small", "medium", "large"]
        table(f"average precision over {counted(len(result.found), 'image')}", columns, [cells])
    means = _means(result)
    if result.times:
        say("per image: " + ", ".join(f"{name} {value:.1f} ms" for name, value in means.items()))
    for path, why in result.broken.items():
        log(f"warning: {path}: skipped: {why}")
    say(out / "detections.json")
