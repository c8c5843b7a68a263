"""Suite table4: detectors, with what is published of them and their latency in three forms (Table 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from irepdeploy.board.protocol import summary
from irepdeploy.console import ProgressDisplay
from irepdeploy.detect.decoding import PROPOSAL_ROUNDS
from irepdeploy.errors import MissingError
from irepdeploy.network.nets import build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.profiling.counts import count
from irepdeploy.reparam.fuse import fuse
from irepdeploy.runs.record import Record
from irepdeploy.runs.suite import SuiteReport, SuiteRequest

from ..latency import bench_models
from ..request import BenchRequest
from ..subject import MODULE, Subject

__all__ = ["ROWS", "table4"]

_COLUMNS = (
    "backbone", "detector", "top-1 %", "AP paper", "AP mmdet", "AP yours", "params M train", "fused", "GMACs",
    "ms train state", "ms fused", "ms plain",
)  # fmt: skip
_SIDE = 256
# Fewest samples and seconds.
_EFFORTS = {"smoke": (6, 0.0), "small": (64, 2.0)}
_MISSING = (
    "the paper's scale of Table 4 needs COCO 2017 (train2017/, val2017/, annotations/), detectors trained on it for 140"
    " and 12 epochs, and an A100; none of them comes with irepdeploy"
)


@dataclass(frozen=True)
class _Row:
    """A row of Table 4.

    Attributes:
        net: Network in train state.
        plain: The same without branches.
        top1: ImageNet accuracy of the backbone, of Table 3.
        published: Box AP in the paper.
        mmdet: Box AP that MMDetection publishes of the same detector.
    """

    backbone: str
    detector: str
    net: str
    plain: str
    top1: float | None = None
    published: float | None = None
    mmdet: float | None = None


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


def table4(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Measure the detectors of Table 4: plain, with branches, and fused, beside the published precision.

    "small" measures latency alone, at 256 x 256 and with random weights; "smoke" takes the small detectors of the data
    set `shapes`. "paper" says what it would need.
    """
    request.refuse("table4", "models", "only")
    if request.scale == "paper":
        raise MissingError(_MISSING, where="--suite table4", hint="--scale small measures latencies here")
    runner = (list(request.runners) or ["ort-cpu" if request.device == "cpu" else "torch"])[0]
    rows = _SMOKE if request.scale == "smoke" else ROWS
    opening = display.task("networks", len(rows))
    subjects: dict[str, Subject] = {}
    counts: dict[str, _Counts] = {}
    for row in rows:
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
    records = bench_models(list(subjects.values()), bench, advance)
    taken = dict(zip(subjects, records, strict=True))
    cells = [_cells(row, counts[row.net], taken) for row in rows]
    size = "64x64" if request.scale == "smoke" else f"{_SIDE}x{_SIDE}"
    return SuiteReport(
        f"Table 4, detectors: {size}, batch 1, fp32, {runner}, random weights",
        _COLUMNS,
        cells,
        [
            "AP paper: the paper's figure, not measured here. AP mmdet: MMDetection's own of the same detector; the"
            " paper does not say that its CenterNet has DCNv2, the equal figure does. AP yours: `irepdeploy detect"
            " --annotations instances_val2017.json`.",
            "GMACs: of the fused network at this size.",
        ],
        {"suite": "table4", "rows": [dict(zip(_COLUMNS, row, strict=True)) for row in cells]},
    )


def _add(row: _Row, subjects: dict[str, Subject], runner: str, request: SuiteRequest) -> _Counts:
    """Build the forms of a row, add those that are new to the subjects, and return their sizes."""
    name, _, branches = row.net.partition("+")
    args: dict[str, Any] = {"input_shape": (3, _SIDE, _SIDE)} if request.scale == "small" else {}
    args |= {"branches": branches} if branches else {}
    torch.manual_seed(request.seed)
    net = randomize_statistics(build(name, **args)).eval()
    fused = fuse(net) if row.net != row.plain else net
    forms = {row.net: net, f"{row.net}, fused": fused} if row.net != row.plain else {row.plain: net}
    for label, form in forms.items():
        form.rounds = PROPOSAL_ROUNDS  # type: ignore[assignment]  # an attribute of detectors
        text = "network, random weights"
        subjects[label] = Subject(label, MODULE, text, runner, module=form, facts={"net": row.net})
    shape = args.get("input_shape", (1, 64, 64))
    return _Counts(_params(net), _params(fused), count(fused, shape).macs)


def _params(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _cells(row: _Row, sizes: _Counts, taken: dict[str, Record]) -> list[str]:
    def ms(label: str) -> str:
        record = taken.get(label)
        return "-" if record is None else f"{summary(record.samples_ns).median_ms:.3f}"

    published = ["-" if value is None else f"{value:g}" for value in (row.top1, row.published, row.mmdet)]
    macs = "-" if sizes.macs is None else f"{sizes.macs / 1e9:.2f}"
    branched = row.net != row.plain
    return [
        row.backbone,
        row.detector,
        *published,
        "-",
        f"{sizes.train / 1e6:.2f}",
        f"{sizes.fused / 1e6:.2f}",
        macs,
        ms(row.net) if branched else "-",
        ms(f"{row.net}, fused") if branched else "-",
        ms(row.plain),
    ]
