"""A search and a training small enough to run many times: three convolutions, 24 images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.recipe import Recipe, load_recipe
from irepdeploy.search.execution.shipped import recipe_path

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


@pytest.fixture(scope="session")
def journal_of() -> Callable[[Path], list[dict[str, Any]]]:
    """The lines of a run's journal without what a clock wrote."""

    def read(folder: Path) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        return [
            {key: value for key, value in line.items() if key not in ("time", "images_per_second")} for line in lines
        ]

    return read


@pytest.fixture(scope="session")
def contents_of() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, by its relative name."""
    return lambda folder: {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
