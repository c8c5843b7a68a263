"""Break down the time of a call by kind of operation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["KINDS", "breakdown"]

# An operation belongs to the first kind with a word that occurs in its name.
KINDS = {
    "convolution, backward": ("convolution_backward",),
    "convolution": ("convolution", "conv2d"),
    "batch norm, backward": ("batch_norm_backward",),
    "batch norm": ("batch_norm",),
    "pooling and ReLU": ("pool", "threshold_backward", "clamp_min", "relu"),
    "sums of maps and gradients": ("aten::add", "aten::addcmul", "foreach_add"),
}
_REST = "rest"


def breakdown(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Return the share of each kind of operation in the total time, from 0 to 1, largest first."""
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiled:
        call()
        if cuda:
            torch.cuda.synchronize(device)
    times = dict.fromkeys([*KINDS, _REST], 0.0)
    for event in profiled.key_averages():
        # Kernels are skipped: their time is counted for the operation that launched them.
        if event.key.startswith("aten::") or not cuda:
            times[_kind(event.key)] += event.self_device_time_total if cuda else event.self_cpu_time_total
    whole = sum(times.values()) or 1.0
    return {kind: time / whole for kind, time in sorted(times.items(), key=lambda item: -item[1])}


def _kind(operation: str) -> str:
    return next((kind for kind, words in KINDS.items() if any(word in operation for word in words)), _REST)
