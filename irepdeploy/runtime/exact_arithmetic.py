"""Full float32 precision, even on a GPU and under autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from irepdeploy.runtime.torch_settings import float32_rounding

__all__ = ["exact_arithmetic"]


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Compute float32 convolutions and matrix products in float32, without autocast; restore the settings afterwards.

    By default, torch rounds the inputs of a convolution to the 10 bits of TF32 on NVIDIA GPUs since Ampere. The error
    of 1e-3 would hide a wrong fuse.
    """
    import torch

    with ExitStack() as stack:
        stack.enter_context(float32_rounding(False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
