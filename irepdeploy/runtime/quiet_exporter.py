"""Call torch's ONNX exporters without their output."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn

from irepdeploy.errors import first_line

__all__ = ["exporter_reason", "given_inputs_alone", "quiet_exporter"]


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Suppress the output, logs and warnings of an exporter in the ``with`` block; errors are still raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    # The fast path replaces a whole attention layer by one operator, which exporters do not support.
    fast = torch.backends.mha.get_fastpath_enabled()
    # On failure this function prints the whole graph to standard output, regardless of the verbosity.
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


@contextlib.contextmanager
def given_inputs_alone(model: nn.Module) -> Iterator[None]:
    """Prevent the TorchScript exporter from turning default arguments of ``forward`` into inputs."""
    forward, own = model.forward, "forward" in model.__dict__
    if isinstance(model, torch.jit.ScriptModule):
        yield
        return
    model.forward = lambda *inputs: forward(*inputs)
    try:
        yield
    finally:
        if own:
            model.forward = forward
        else:
            del model.forward


def exporter_reason(error: Exception) -> str:
    """Return on one line why an exporter failed, without its request to report the error."""
    return first_line(error).partition(" Please feel free")[0].partition("  [Caused by")[0]
