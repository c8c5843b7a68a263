"""Time training steps of Faster R-CNN R50-FPN: the cost of branches, with frozen and with live statistics.

    python -m irepdeploy.bench.tools.detector_step bench/records/detector-step-2core-cpu.jsonl

Steps are interleaved in rounds, so that changes of the machine affect all of them. Times are CPU times of one thread,
which other programs disturb less than elapsed time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from irepdeploy.board.protocol import ratio, summary
from irepdeploy.console import table
from irepdeploy.detect.detector import Detector
from irepdeploy.detect.target import Target, Targets
from irepdeploy.network.nets import build
from irepdeploy.recipe import FreezeSection
from irepdeploy.search.training.freezing import Freeze

from .harness import interval_text, keep_line

__all__ = ["main", "measured", "step_of"]

_ROUNDS, _BATCH, _SIDE = 6, 2, 256
# Name, branches of the backbone, and whether its statistics are frozen. The branches are those published by the paper,
# and all candidates of its search.
_NET = "faster_rcnn_resnet50_fpn"
_ROWS = (
    ("plain", None, True),
    ("published branches", "irep-resnet50", True),
    ("all branches", "ireps-resnet-imagenet", True),
    ("all branches, live statistics", "ireps-resnet-imagenet", False),
)


def step_of(net: Detector, frozen: bool, side: int = _SIDE) -> Callable[[], None]:
    """Return a call that computes a training step: loss, gradients, SGD."""
    freeze = Freeze(net, FreezeSection(stages=1, statistics=frozen))
    optimizer = torch.optim.SGD(net.parameters(), 1e-4, 0.9)
    random = torch.Generator().manual_seed(0)
    images = torch.randn(_BATCH, 3, side, side, generator=random)
    corners = torch.rand(_BATCH, 4, 2, generator=random) * side / 2
    sides = 8 + torch.rand(_BATCH, 4, 2, generator=random) * (side / 2 - 8)
    boxes = torch.cat([corners, corners + sides], 2)
    labels, crowd = torch.arange(4), torch.zeros(4, dtype=torch.bool)
    targets = Targets(Target(each, labels, crowd, index, (side, side)) for index, each in enumerate(boxes))

    def step() -> None:
        net.train()
        freeze.apply()
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(net.loss(images, targets).values())).sum().backward()
        optimizer.step()

    return step


def measured(rounds: int = _ROUNDS, side: int = _SIDE) -> dict[str, list[int]]:
    """Return the CPU times in ns of each row's steps, from interleaved rounds after a warm-up round."""
    calls = {}
    for name, branches, frozen in _ROWS:
        torch.manual_seed(0)
        built = build(_NET, branches=branches, input_shape=(3, side, side))
        assert isinstance(built, Detector)
        calls[name] = step_of(built, frozen, side)
    samples: dict[str, list[int]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            started = time.process_time_ns()
            call()
            if number:
                samples[name].append(time.process_time_ns() - started)
    return samples


def main(record: str | None = None) -> None:
    """Measure, print a table, and append the raw samples to `record`."""
    torch.set_num_threads(1)
    samples = measured()
    rows = []
    for name, times in samples.items():
        found = ratio(times, samples["plain"], seed=0)
        rows.append([name, f"{summary(times).median_ms:.0f}", f"{found.value:.2f}", interval_text(found)])
    title = f"A step of Faster R-CNN R50-FPN, {_BATCH} images of {_SIDE}x{_SIDE}, first stage frozen, one thread"
    table(title, ["backbone", "median ms", "x plain", "95 % interval"], rows)
    facts = {"net": _NET, "batch": _BATCH, "side": _SIDE, "threads": 1}
    keep_line(record, "detector step", clock="processor time", **facts, samples_ns=samples)


if __name__ == "__main__":
    main(*sys.argv[1:2])
