"""Suite table4: detectors with their published precision and their latency in three forms (Table 4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from irepdeploy.board.protocol import summary
from irepdeploy.console import ProgressDisplay
from irepdeploy.data.shapes import shapes
from irepdeploy.detect.coco_metric import average_precision
from irepdeploy.detect.decoding import PROPOSAL_ROUNDS
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.detector import Detector
from irepdeploy.errors import InputError, MissingError
from irepdeploy.network.nets import build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.network.source import open_source
from irepdeploy.profiling.counts import count
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.origin import origin_of
from irepdeploy.runs.record import Record
from irepdeploy.runs.result import TrainingResult, read_result
from irepdeploy.runs.suite import SuiteReport, SuiteRequest
from irepdeploy.tasks import Detection

from ..latency import bench_models
from ..request import BenchRequest
from ..subject import MODULE, RUNNERS, Subject, find_subjects

__all__ = ["ROWS", "table4"]

_COLUMNS = (
    "backbone", "detector", "top-1 %", "AP paper", "AP mmdet", "AP yours", "params M train", "fused", "GMACs",
    "ms train state", "ms fused", "ms plain",
)  # fmt: skip
_SIDE = 256
_CANVASES = 32
# Minimum number of samples and seconds.
_EFFORTS = {"smoke": (6, 0.0), "small": (64, 2.0)}
_MISSING = (
    "the paper's scale of Table 4 needs COCO 2017 (train2017/, val2017/, annotations/), detectors trained on it for 140"
    " and 12 epochs, and an A100; none of them comes with irepdeploy"
)


@dataclass(frozen=True)
class _Row:
    """A row of Table 4.

    Attributes:
        net: Name of the network in train state.
        plain: Name of the same network without branches.
        top1: ImageNet accuracy of the backbone, from Table 3.
        published: Box AP in the paper.
        mmdet: Box AP that MMDetection publishes for the same detector.
        model: Network of a checkpoint. None: the network is built by name.
        ap: Average precision of the checkpoint, from 0 to 1.
    """

    backbone: str
    detector: str
    net: str
    plain: str
    top1: float | None = None
    published: float | None = None
    mmdet: float | None = None
    model: nn.Module | None = None
    ap: float | None = None

    @property
    def branched(self) -> bool:
        """Whether there are three forms to measure rather than one."""
        return self.net != self.plain


_CENTERNET, _FASTER = "CenterNet, DCNv2", "Faster R-CNN, FPN"
_R18, _R50 = "centernet_dcn_resnet18", "faster_rcnn_resnet50_fpn"
ROWS = (
    _Row("ResNet-18", _CENTERNET, _R18, _R18, 69.76, 29.5, 29.5),
    _Row("IrepResNet-18", _CENTERNET, f"irep_{_R18}", _R18, 71.57, 31.2),
    _Row("ResNet-50", _FASTER, _R50, _R50, 76.10, 37.9, 37.4),
    _Row("DyRep (ResNet-50)", _FASTER, f"dyrep_{_R50}", _R50, 77.08, 38.1),
    _Row("IrepResNet-50", _FASTER, f"irep_{_R50}", _R50, 77.92, 38.2),
)
_SMOKE = (
    _Row("small VGG", "CenterNet", "centernet_vgg6", "centernet_vgg6"),
    _Row("small VGG, acnet", "CenterNet", "centernet_vgg6+acnet", "centernet_vgg6"),
)


@dataclass(frozen=True)
class _Counts:
    train: int
    fused: int
    macs: int | None
    ap: float | None


def table4(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Measure the detectors of Table 4 plain, with branches, and fused, and list their published precision.

    Scale "small" measures latency only, at 256 x 256 and with random weights. "smoke" takes the small detectors of the
    data set `shapes` and scores them on a few of its canvases. "paper" only reports what it would need. Your own
    detectors follow, with the precision from their training.
    """
    request.refuse("table4", "only")
    if request.scale == "paper":
        raise MissingError(_MISSING, where="--suite table4", hint="--scale small measures latencies here")
    runner = (list(request.runners) or ["ort-cpu" if request.device == "cpu" else "torch"])[0]
    rows = [*(_SMOKE if request.scale == "smoke" else ROWS), *map(_own, request.models)]
    opening = display.task("networks", len(rows))
    subjects: dict[str, Subject] = {}
    counts: dict[str, _Counts] = {}
    for row in rows:
        if row.net in counts:
            raise InputError("given twice", where=row.net, hint="omit one of them")
        counts[row.net] = _add(row, subjects, runner, request)
        opening.advance(1, row.net)
    samples, seconds = _EFFORTS[request.scale]
    measuring = display.task("latencies", 100)
    done = 0

    def advance(share: float) -> None:
        nonlocal done
        measuring.advance(max(0, int(100 * share) - done))
        done = max(done, int(100 * share))

    bench = BenchRequest(
        suite="table4",
        out=request.out,
        seed=request.seed,
        threads=request.threads or 1,
        device=request.device,
        min_seconds=seconds if request.seconds is None else request.seconds,
        min_samples=samples,
    )
    # Latencies on different inputs are not compared, and the user's detectors may take other inputs.
    sizes = list(dict.fromkeys(map(_shape, subjects.values())))
    taken: dict[str, Record] = {}
    for place, each in enumerate(sizes):
        mine = {label: subject for label, subject in subjects.items() if _shape(subject) == each}

        def part(share: float, place: int = place) -> None:
            advance((place + share) / len(sizes))

        taken |= dict(zip(mine, bench_models(list(mine.values()), bench, part), strict=True))
    cells = [_cells(row, counts[row.net], taken) for row in rows]
    size = "64x64" if request.scale == "smoke" else f"{_SIDE}x{_SIDE}"
    return SuiteReport(
        f"Table 4, detectors: {size}, batch 1, fp32, {runner}, random weights{' but for yours' * bool(request.models)}",
        _COLUMNS,
        cells,
        [
            "AP paper: the paper's figure, not measured here. AP mmdet: MMDetection's own of the same detector; the"
            " paper does not say that its CenterNet has DCNv2, the equal figure does. AP yours: of a checkpoint, on the"
            " test set of its training (result.json); at the scale smoke of random weights, on"
            f" {_CANVASES} canvases of shapes.",
            "GMACs: of the fused network at this size; of a checkpoint at its own.",
        ],
        {"suite": "table4", "rows": [dict(zip(_COLUMNS, row, strict=True)) for row in cells]},
    )


def _add(row: _Row, subjects: dict[str, Subject], runner: str, request: SuiteRequest) -> _Counts:
    """Build the forms of a row, add those that are new to the subjects, and return their sizes."""
    net = row.model
    if net is None:
        name, _, branches = row.net.partition("+")
        args: dict[str, Any] = {"input_shape": (3, _SIDE, _SIDE)} if request.scale == "small" else {}
        args |= {"branches": branches} if branches else {}
        torch.manual_seed(request.seed)
        net = randomize_statistics(build(name, **args)).eval()
    fused = fuse(net) if row.branched else net
    forms = {row.net: net, f"{row.net}, fused": fused} if row.branched else {row.plain: net}
    for label, form in forms.items():
        form.rounds = PROPOSAL_ROUNDS  # type: ignore[assignment]  # an attribute of detectors
        text = "network, random weights"
        subjects[label] = Subject(label, MODULE, text, runner, module=form, facts={"net": row.net})
    shape = origin_of(net).input_shape
    ap = _on_canvases(fused) if row.model is None and request.scale == "smoke" else row.ap
    return _Counts(_params(net), _params(fused), count(fused, shape).macs, ap)


def _shape(subject: Subject) -> tuple[int, ...]:
    assert subject.module is not None
    return tuple(origin_of(subject.module).input_shape)


def _own(given: str) -> _Row:
    """Return the row of a checkpoint, ``[label=]path``; a checkpoint without branches is a plain detector."""
    (subject,) = find_subjects([given])
    if subject.kind not in RUNNERS["torch"]:
        hint = "its files are measured without --suite"
        raise InputError("expected the checkpoint of a detector", where=given, hint=hint)
    net = open_source(subject.target).model
    if not isinstance(net, Detector):
        raise InputError(f"expected a detector, got a {type(net).__name__}", where=given, hint="table4 is of detectors")
    branched = any(isinstance(module, RepBlock) for module in net.modules())
    backbone = f"yours{', with branches' if branched else ''}"
    label, path = subject.label, Path(subject.target)
    result = read_result(path.parent) if path.name == "best.pt" else None
    ap = None
    if isinstance(result, TrainingResult) and result.metric is not None and result.metric.name == Detection.metric.name:
        ap = result.test_accuracy
    return _Row(backbone, label, label, "-" if branched else label, model=net.eval(), ap=ap)


def _on_canvases(net: nn.Module) -> float | None:
    """Return the average precision on a few canvases; None if the package that computes it is not installed."""
    assert isinstance(net, Detector)
    canvases = shapes(train=2, val=_CANVASES).val
    samples = [canvases[place] for place in range(_CANVASES)]
    with torch.inference_mode():
        found = Detections.of_batch(*net.decode(*net(torch.stack([image for image, _ in samples]))))
    try:
        return average_precision(found, [target for _, target in samples]).ap
    except MissingError:
        return None


def _params(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _cells(row: _Row, sizes: _Counts, taken: dict[str, Record]) -> list[str]:
    def ms(label: str) -> str:
        record = taken.get(label)
        return "-" if record is None else f"{summary(record.samples_ns).median_ms:.3f}"

    published = ["-" if value is None else f"{value:g}" for value in (row.top1, row.published, row.mmdet)]
    macs = "-" if sizes.macs is None else f"{sizes.macs / 1e9:.2f}"
    branched = row.branched
    return [
        row.backbone,
        row.detector,
        *published,
        "-" if sizes.ap is None else f"{100 * sizes.ap:.1f}",
        f"{sizes.train / 1e6:.2f}",
        f"{sizes.fused / 1e6:.2f}",
        macs,
        ms(row.net) if branched else "-",
        ms(f"{row.net}, fused") if branched else "-",
        ms(row.plain),
    ]
