"""Shared parts of the search and training loops: optimizers, cosine schedule, and checks for NaN and memory."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from irepdeploy.errors import InputError, RunError
from irepdeploy.runtime.memory import is_out_of_memory

if TYPE_CHECKING:
    from irepdeploy.recipe import AdamSection, SgdSection

__all__ = [
    "adam", "check_finite", "check_loss", "check_score", "clip", "cosine", "enlarge", "memory_guard", "optimizer_of",
    "seed_epoch", "set_rate",
]  # fmt: skip

_SMALLER_STEPS = "a smaller weights.lr, or weights.clip=1, usually helps; the last good state is kept"


def optimizer_of(parameters: Iterator[nn.Parameter], settings: SgdSection) -> Optimizer:
    """Make SGD, or Adam or AdamW, as a recipe configures it."""
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "foreach": True}
    if settings.optimizer == "sgd":
        return SGD(list(parameters), momentum=settings.momentum, **common)
    return (Adam if settings.optimizer == "adam" else AdamW)(list(parameters), **common)


def adam(parameters: Iterator[nn.Parameter], settings: AdamSection) -> Adam:
    """Make Adam for alpha and beta."""
    return Adam(list(parameters), lr=settings.lr, betas=settings.betas, foreach=True)


def cosine(start: float, epoch: int, epochs: int) -> float:
    """Return the rate at `epoch` of `epochs`: from `start` to 0 along half a cosine."""
    return start * (1 + math.cos(math.pi * epoch / epochs)) / 2


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(optimizer: torch.optim.Optimizer, limit: float | None) -> None:
    """Clip the norm of an optimizer's gradients; None does not clip."""
    if limit is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], limit)


def enlarge(net: nn.Module, factor: float) -> None:
    """Scale the gradients of a last step that accumulated fewer batches than its losses were divided by."""
    for parameter in net.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(factor)


@contextmanager
def memory_guard(during: str, device: torch.device, *keys: str) -> Iterator[None]:
    """Convert out-of-memory errors into one that names the recipe keys that reduce memory use."""
    try:
        yield
    except Exception as error:  # torch and Python report this with several exceptions
        if not is_out_of_memory(error):
            raise
        hint = f"a smaller {' or '.join(keys)}; the last good state is kept"
        raise RunError(f"out of memory in {during}", where=str(device), hint=hint) from error


def seed_epoch(seed: int, epoch: int) -> None:
    """Seed the generators of Python and numpy for an epoch, since a network or a Dataset may draw from them.

    Those of torch are part of the saved state.
    """
    random.seed(f"{seed} {epoch}")
    np.random.seed((seed + epoch) % 2**32)


def check_finite(model: nn.Module, epoch: int, what: str) -> None:
    """Stop a run whose weights or statistics are not finite after the last step of an epoch."""
    for name, tensor in model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise RunError(f"NaN or infinity in epoch {epoch + 1} of the {what}", where=name, hint=_SMALLER_STEPS)


def check_score(score: float, name: str, epoch: int, what: str) -> None:
    """Stop a run whose score is not a number."""
    if not math.isfinite(score):
        raise RunError(f"the metric {name} became {score} in epoch {epoch + 1} of the {what}")


def check_loss(loss: float, epoch: int, what: str, inputs: object = None) -> None:
    """Stop a run whose loss is not finite; the error says so if the cause is in `inputs`."""
    if not math.isfinite(loss):
        if isinstance(inputs, torch.Tensor) and not bool(torch.isfinite(inputs).all()):
            raise InputError("some inputs are NaN or infinite", where="train", hint="fix or remove these samples")
        raise RunError(f"the loss became {loss} in epoch {epoch + 1} of the {what}", hint=_SMALLER_STEPS)
