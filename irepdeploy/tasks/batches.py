"""Extraction of inputs and targets from the batches of loaders, and of tensors from the outputs of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from irepdeploy.data.nested import mapped
from irepdeploy.errors import InputError

__all__ = ["main_output", "read_batch", "wide"]

INPUT_KEYS = ("pixel_values", "image", "images", "img", "input", "inputs", "x")
TARGET_KEYS = ("label", "labels", "target", "targets", "mask", "masks", "y")
_OUTPUT_KEYS = ("logits", "out")


def read_batch(batch: Any) -> tuple[Any, Any]:
    """Return the inputs and targets of a batch, which is a pair or a dictionary with usual keys.

    A single tensor is its own target, as for an autoencoder.

    Raises:
        InputError: The batch has another form.
    """
    if isinstance(batch, Tensor):
        return batch, batch
    if isinstance(batch, Mapping):
        return _entry(batch, INPUT_KEYS, "inputs"), _entry(batch, TARGET_KEYS, "targets")
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
    raise InputError(
        f"expected batches of (inputs, targets), got {type(batch).__name__}{size}",
        hint="for other batches, override read(batch) in your own Task",
    )


def main_output(raw: Any) -> Any:
    """Return the main output of a network.

    This is the tensor itself, the entry "logits" or "out" of a dictionary, or the only entry of a dictionary or tuple.

    Raises:
        InputError: There is no such output.
    """
    if isinstance(raw, Mapping):
        found = next((raw[key] for key in _OUTPUT_KEYS if key in raw), None)
        raw = next(iter(raw.values())) if found is None and len(raw) == 1 else found if found is not None else raw
    elif isinstance(raw, tuple | list) and len(raw) == 1:
        raw = raw[0]
    if not isinstance(raw, Tensor):
        raise InputError(
            f"expected one output of the network, got {type(raw).__name__}",
            hint="to select one, override outputs(raw) in your own Task",
        )
    return raw


def wide(value: Any) -> Any:
    """Convert half-precision tensors to float32 and keep all others."""
    return mapped(lambda t: t.float() if t.dtype in (torch.bfloat16, torch.float16) else t, value)


def _entry(batch: Mapping[Any, Any], keys: tuple[str, ...], what: str) -> Any:
    found = [key for key in keys if key in batch]
    if len(found) != 1:
        named = ", ".join(map(str, batch))
        raise InputError(
            f"expected one of {', '.join(keys)} as the {what} of a batch, got {named or 'nothing'}",
            hint="for other batches, override read(batch) in your own Task",
        )
    return batch[found[0]]
