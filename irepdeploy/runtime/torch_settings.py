"""Settings of torch that hold for the whole process, while a runner needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from irepdeploy.errors import InputError

__all__ = ["check_settings", "cuda_arithmetic", "torch_settings"]


@contextlib.contextmanager
def torch_settings(*, threads: int | None = None, cuda: bool = False, tf32: bool = False) -> Iterator[None]:
    """Set them for a ``with`` block, then give back what was.

    Args:
        threads: of operators on the CPU; None leaves torch's own number.
        cuda: whether the network runs there: cuDNN then tries its algorithms for each shape (``cudnn.benchmark``).
        tf32: let float32 convolutions and products round to TF32 there. torch's default is on for convolutions, off
            for products.
    """
    import torch

    cudnn, matmul = _places()
    with contextlib.ExitStack() as stack:
        if threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        if cuda:
            stack.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
            cudnn.benchmark = True
            for place, name in _newer_names():
                stack.callback(setattr, place, name, getattr(place, name))
            for place in (cudnn, matmul):
                # Where the caller has used both sets of names they contradict each other, and reading this one raises.
                with contextlib.suppress(RuntimeError):
                    stack.callback(setattr, place, "allow_tf32", place.allow_tf32)
                # The older name sets the newer ones too; those leave the older one as it was, and reading it raises.
                place.allow_tf32 = tf32
        yield


def check_settings(*, threads: int | None = None, cuda: bool = False, tf32: bool = False, where: str) -> None:
    """Raise InputError where another runner, active at the same time, has set them otherwise."""
    import torch

    hint = "torch has one such setting for a process: give runners that are active together the same"
    if threads is not None and torch.get_num_threads() != threads:
        raise InputError(
            f"torch runs on {torch.get_num_threads()} threads where {threads} were asked for", where=where, hint=hint
        )
    now = cuda_arithmetic()
    if cuda and {now["tf32_conv"], now["tf32_matmul"]} != {tf32}:
        raise InputError(f"TF32 is not {'on' if tf32 else 'off'}, though it was asked for so", where=where, hint=hint)


def cuda_arithmetic() -> dict[str, bool]:
    """What float32 on the GPU is now; `tf32`: whether any of it rounds."""
    cudnn, matmul = _places()
    if _newer_names():
        convolutions, products = cudnn.conv.fp32_precision == "tf32", matmul.fp32_precision == "tf32"
    else:
        convolutions, products = cudnn.allow_tf32, matmul.allow_tf32
    return {
        "tf32": convolutions or products,
        "tf32_conv": convolutions,
        "tf32_matmul": products,
        "cudnn_benchmark": cudnn.benchmark,
    }


def _places() -> tuple[Any, Any]:
    import torch

    return torch.backends.cudnn, torch.backends.cuda.matmul


def _newer_names() -> list[tuple[Any, str]]:
    """Where torch from 2.9 on keeps what it does with float32, the widest last, to be given back first; [] before."""
    cudnn, matmul = _places()
    if not hasattr(matmul, "fp32_precision"):
        return []
    return [(place, "fp32_precision") for place in (matmul, cudnn.rnn, cudnn.conv, cudnn)]
