"""Process-wide settings of torch that a runner needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from irepdeploy.errors import InputError

__all__ = ["check_settings", "cuda_arithmetic", "float32_rounding", "torch_settings"]


@contextlib.contextmanager
def torch_settings(*, threads: int | None = None, cuda: bool = False, tf32: bool = False) -> Iterator[None]:
    """Change settings of torch for a ``with`` block, then restore the previous values.

    Args:
        threads: Number of CPU threads, or None to keep it.
        cuda: Let cuDNN benchmark its algorithms for each shape (``cudnn.benchmark``), and apply `tf32`.
        tf32: Allow TF32 in float32 convolutions and matrix products; torch's default allows it only in convolutions.
    """
    import torch

    cudnn, _ = _places()
    with contextlib.ExitStack() as stack:
        if threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        if cuda:
            stack.callback(setattr, cudnn, "benchmark", cudnn.benchmark)
            cudnn.benchmark = True
            stack.enter_context(float32_rounding(tf32))
        yield


@contextlib.contextmanager
def float32_rounding(tf32: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions and matrix products for a ``with`` block, then restore the settings.

    Inside the block, the settings can be read under both their older and their newer names. Setting only the newer
    names would make the older ones raise, which torch.compile reads, and so would ``allow_tf32`` after
    ``torch.set_float32_matmul_precision``.
    """
    import torch

    cudnn, _ = _places()
    with contextlib.ExitStack() as stack:
        for place, name in _newer_names():
            stack.callback(setattr, place, name, getattr(place, name))
        # Reading raises if the caller used both the older and the newer names.
        with contextlib.suppress(RuntimeError):
            stack.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
        with contextlib.suppress(RuntimeError):
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        # The older names also set the newer ones, but not vice versa.
        cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        if not tf32 and _newer_names():
            # The older name leaves these to `torch.backends.fp32_precision`.
            cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
        yield


def check_settings(*, threads: int | None = None, cuda: bool = False, tf32: bool = False, where: str) -> None:
    """Raise InputError if another active runner has changed the settings."""
    import torch

    hint = "torch has one such setting per process: runners that are active at the same time must agree"
    if threads is not None and torch.get_num_threads() != threads:
        raise InputError(
            f"expected torch to run on {threads} threads, got {torch.get_num_threads()}", where=where, hint=hint
        )
    now = cuda_arithmetic()
    if cuda and {now["tf32_conv"], now["tf32_matmul"]} != {tf32}:
        raise InputError(f"expected TF32 to be {'on' if tf32 else 'off'}, got {now}", where=where, hint=hint)


def cuda_arithmetic() -> dict[str, bool]:
    """Return the current float32 settings of CUDA; "tf32" is True if any operator rounds to TF32."""
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
    """Return the settings of torch 2.9 and newer, or [] for older versions.

    The most general setting comes last, because settings are restored in reverse order.
    """
    cudnn, matmul = _places()
    if not hasattr(matmul, "fp32_precision"):
        return []
    import torch

    # `torch.set_float32_matmul_precision` sets that of oneDNN together with that of CUDA.
    onednn: Any = torch.backends.mkldnn
    places = (onednn.matmul, matmul, cudnn.rnn, cudnn.conv, cudnn)
    return [(place, "fp32_precision") for place in places]
