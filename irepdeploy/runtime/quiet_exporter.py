"""Silence torch's ONNX exporters."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch

__all__ = ["quiet_exporter"]


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Suppress output, logs and warnings of an exporter; errors are still raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    # The fast path is one operator for a whole attention layer, which exporters do not support.
    fast = torch.backends.mha.get_fastpath_enabled()
    # On failure this prints the whole graph to standard output, regardless of the verbosity.
    print_graph = getattr(torch._C, "_jit_onnx_log", None)
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        if print_graph is not None:
            setattr(torch._C, "_jit_onnx_log", lambda *args: None)  # noqa: B010
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        if print_graph is not None:
            setattr(torch._C, "_jit_onnx_log", print_graph)  # noqa: B010
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
