"""float32 that is float32: on a GPU too, and under autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

__all__ = ["exact_arithmetic"]


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Convolutions and matrix products of float32 in float32, autocast off; settings are put back afterwards.

    NVIDIA's GPUs since Ampere round the inputs of a convolution to TF32's 10 bits by torch's default, an error of
    1e-3 in which no wrong fuse could be told from a right one.
    """
    import torch

    # torch 2.9 and newer name the operators one by one; older ones have a switch a library.
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
