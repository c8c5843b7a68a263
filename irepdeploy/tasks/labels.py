"""Check labels against the classes of a network."""

from __future__ import annotations

import torch
from torch import Tensor

from irepdeploy.errors import InputError

__all__ = ["check_labels"]


def check_labels(targets: Tensor, ndim: int, classes: int, where: str, ignore: int | None = None) -> None:
    """Raise InputError unless the targets are `ndim`-dimensional class indices below `classes`, or `ignore`."""
    shape = "(N,)" if ndim == 1 else "(N, H, W)"
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != ndim:
        got = (
            f"{str(targets.dtype).removeprefix('torch.')} {tuple(targets.shape)}"
            if isinstance(targets, Tensor)
            else type(targets).__name__
        )
        raise InputError(f"expected integer labels {shape}, got {got}", where=where)
    labels = targets.long()
    bad = (labels < 0) | (labels >= classes)
    if ignore is not None:
        bad &= labels != ignore
    if bool(bad.any()):
        found = torch.unique(labels[bad])[:3].tolist()
        also = "" if ignore is None else f" or {ignore} (ignored)"
        raise InputError(
            f"labels outside the classes: the network has {classes}, 0 to {classes - 1}{also}, got"
            f" {', '.join(map(str, found))}",
            where=where,
            hint="number the classes from 0, with one output of the network for each",
        )
