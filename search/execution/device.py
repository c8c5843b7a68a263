"""The device of a run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from irepdeploy.errors import MissingError
from irepdeploy.runtime.memory import keep_freed_memory

from .ranks import Ranks

if TYPE_CHECKING:
    from irepdeploy.recipe import Recipe

__all__ = ["choose_device", "device_name", "ranks_of"]


def choose_device(name: str, *, deterministic: bool = False) -> str:
    """Set up the device of a recipe and return its kind; "auto" is "cuda" where available.

    `deterministic` makes CUDA runs repeatable bit for bit, at some cost in speed; runs on a CPU always are.
    """
    there = torch.cuda.is_available()
    if name == "cpu" or (name == "auto" and not there):
        return "cpu"
    if not there:
        raise MissingError("torch finds no CUDA device here", where="device=cuda", hint="irepdeploy doctor tells why")
    if deterministic:
        # cuBLAS reads it when it creates its first handle.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    return "cuda"


def ranks_of(recipe: Recipe) -> Ranks:
    """Join the processes that torchrun started, each on its device; without torchrun, return this process alone.

    On a CPU, this process no longer returns freed memory to the system.
    """
    device = choose_device(recipe.device, deterministic=recipe.deterministic)
    if device == "cpu":
        # Training allocates the same large feature maps in every step.
        keep_freed_memory()
    return Ranks.from_environment(device)


def device_name(device: torch.device) -> str:
    """Return the name of a device: "cpu", or that of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
