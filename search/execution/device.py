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

    `deterministic` lets CUDA repeat a run to the bit, which is slower; on a CPU every run does.
    """
    there = torch.cuda.is_available()
    if name == "cpu" or (name == "auto" and not there):
        return "cpu"
    if not there:
        raise MissingError("torch finds no CUDA device here", where="device=cuda", hint="irepdeploy doctor tells why")
    if deterministic:
        # cuBLAS reads it when it makes its first handle.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not deterministic
    return "cuda"


def ranks_of(recipe: Recipe) -> Ranks:
    """Join the processes that torchrun has started for a recipe, each with its device; else return this one alone.

    On a CPU this process keeps the memory that it frees from now on.
    """
    device = choose_device(recipe.device, deterministic=recipe.deterministic)
    if device == "cpu":
        # Training allocates the same large maps again and again.
        keep_freed_memory()
    return Ranks.from_environment(device)


def device_name(device: torch.device) -> str:
    """Return the name of a device: "cpu", or that of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
