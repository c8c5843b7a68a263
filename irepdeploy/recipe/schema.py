"""The schema of a recipe: everything that decides a search and a training, in one YAML file.

Unknown and repeated keys are errors, and all faults are reported together. ``key=value`` overrides use dotted names
(``search.population=8``; a bare name that only one section has is enough; of two for one key the last wins), and
``scale=NAME`` applies a named set of overrides from the recipe itself; every recipe has ``smoke``. The least recipe
names a network and data; everything else has a default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from irepdeploy.recipe.sections import (
    BackboneSection,
    DataSection,
    FreezeSection,
    NetSection,
    Options,
    SearchSection,
    Section,
    Seed,
    Threads,
    TrainSection,
)

__all__ = ["Recipe", "keys_of"]


class Recipe(Section):
    """A whole recipe.

    Args:
        branches: preset of branches, or "none".
        task: name, such as "segmentation", or ``package.module:Task``.
        seed: start of all randomness.
        threads: number of CPU threads of torch, by default torch's own choice. The result depends on it, because it
            changes the order of summation.
        device: "auto" is CUDA where available.
        deterministic: make CUDA runs repeatable bit for bit, at some cost in speed.
        scales: named sets of changes, which ``scale=NAME`` applies.
    """

    later: ClassVar[tuple[str, ...]] = ("task", "backbone", "freeze")
    net: NetSection
    branches: str = "ireps"
    data: DataSection
    task: str = "classification"
    seed: Seed = 0
    threads: Threads | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = False
    backbone: BackboneSection = BackboneSection()
    freeze: FreezeSection = FreezeSection()
    search: SearchSection = SearchSection()
    train: TrainSection = TrainSection()
    scales: dict[str, Options] = Field({})


def keys_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a section, and of those in it."""
    for name, info in section.model_fields.items():
        yield prefix + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from keys_of(info.annotation, f"{prefix}{name}.")
