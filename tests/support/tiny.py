"""A search and a training small enough to run many times: three convolutions, 24 images."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from irepdeploy.recipe import Recipe, load_recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.search.execution.shipped import recipe_path

__all__ = ["SOME", "tiny", "tiny_overrides"]

# Of the tiny network: three branches, none in the last layer.
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
    """What makes the shipped digits recipe tiny, as it is typed on the command line."""
    return list(_TINY)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Recipe]:
    """`tiny("seed=1")`: the tiny recipe with further overrides. 25 possible branches: 8 + 9 + 8."""
    return lambda *overrides: load_recipe(recipe_path("digits"), [*_TINY, *overrides])
