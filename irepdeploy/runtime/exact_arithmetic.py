"""Full float32 precision, on a GPU and under autocast too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["exact_arithmetic"]


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Compute float32 convolutions and matrix products in float32, without autocast; restore the settings afterwards.

    By torch's default, NVIDIA's GPUs since Ampere round the inputs of a convolution to TF32's 10 bits. That error of
    1e-3 would hide a wrong fuse.
    """
    import torch

    # torch 2.9 and newer have one setting per operator, older versions one per library.
    cudnn: Any = torch.backends.cudnn
    per_operator = hasattr(cudnn, "conv")
    backends: list[Any] = [torch.backends.cuda.matmul, cudnn.conv if per_operator else cudnn]
    name, exact = ("fp32_precision", "ieee") if per_operator else ("allow_tf32", False)
    before = [getattr(backend, name) for backend in backends]
    try:
        for backend in backends:
            setattr(backend, name, exact)
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            setattr(backend, name, value)
