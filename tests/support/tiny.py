"""A search and a training small enough to run many times (three convolutions, 24 images), and ways to stop them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from irepdeploy.recipe import Recipe, load_recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.result import TrainingResult
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.result import SearchResult

__all__ = [
    "SOME",
    "JournalOf",
    "Searched",
    "Stop",
    "Tiny",
    "Trained",
    "at_call",
    "poison",
    "raising",
    "stop_after",
    "tiny",
    "tiny_overrides",
]

# Types of the fixtures.
Tiny = Callable[..., Recipe]
Searched = tuple[Path, SearchResult]
Trained = tuple[Path, TrainingResult]
JournalOf = Callable[[Path], list[dict[str, Any]]]

# An Architecture of the tiny network: three branches, none in the last layer.
SOME = Architecture.from_branches(
    {"stages.0.0.conv": ["conv1x3"], "stages.0.1.conv": ["identity", "conv1x1_3x3"], "stages.1.0.conv": []},
    ("conv1x3", "conv1x1_3x3", "identity"),
)

_TINY = [
    "scale=smoke",
    "net.args.stages=[[4, 4], [6]]",
    "data.options.train=24",
    "data.options.val=20",
    "search.batch_size=12",
    "search.population=5",
    "train.batch_size=12",
    "train.epochs=3",
]


@pytest.fixture(scope="session")
def tiny_overrides() -> list[str]:
    """Overrides that make the shipped digits recipe tiny, as typed on the command line."""
    return list(_TINY)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """`tiny("seed=1")`: the tiny recipe with further overrides. 25 possible branches: 8 + 9 + 8."""
    return lambda *overrides: load_recipe(recipe_path("digits"), [*_TINY, *overrides])


class Stop(Exception):
    """Raised by a test to end a run like a kill."""


def stop_after(epochs: int) -> Callable[[int, str], None]:
    """Progress that ends a run after this many epochs."""
    done = 0

    def advance(more: int, note: str) -> None:
        nonlocal done
        done += more
        if done == epochs:
            raise Stop

    return advance


def at_call(number: int, original: Callable[..., Any], act: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `act` the `number`-th time, and otherwise `original`."""
    calls = itertools.count(1)
    return lambda *args, **options: (act if next(calls) == number else original)(*args, **options)


def raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    def act(*_: object, **__: object) -> None:
        raise error

    return act


def poison(optimizer: torch.optim.Optimizer, limit: float | None) -> None:
    """Replacement of `clip` that sets a gradient to NaN."""
    optimizer.param_groups[0]["params"][0].grad.fill_(float("nan"))
