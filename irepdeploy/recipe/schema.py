"""The schema of a recipe: all settings of a search and a training, in one YAML file.

Unknown and repeated keys are errors, and all faults are reported together. ``key=value`` overrides use dotted names
such as ``search.population=8``; the last part is enough if only one section has it, and the last override of a key
wins. ``scale=NAME`` applies a named set of overrides from the recipe itself; every recipe has the scale ``smoke``. A
minimal recipe names a network and data; all other keys have defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from irepdeploy.recipe.fields import Options, Seed, Threads
from irepdeploy.recipe.sections import (
    BackboneSection,
    DataSection,
    FreezeSection,
    NetSection,
    SearchSection,
    Section,
    TrainSection,
)

__all__ = ["Recipe", "keys_of"]


class Recipe(Section):
    """A whole recipe.

    Args:
        net: The network.
        branches: Preset of branches to insert, or "none".
        data: The data.
        task: Name of the task, such as "segmentation", or ``package.module:Task``.
        seed: Seed of all random numbers.
        threads: Number of CPU threads; by default torch's own choice. The result depends on it, because it changes the
            order of summation.
        device: Device of the run; "auto" is CUDA if available.
        deterministic: Make CUDA runs bit-for-bit reproducible, at some cost in speed.
        backbone: Weights of a detector's backbone.
        freeze: Parts of a detector that are not trained.
        search: The search.
        train: The training.
        scales: Named sets of overrides, which ``scale=NAME`` applies.
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
    """Yield the dotted keys of a section, including those of the sections in it."""
    for name, info in section.model_fields.items():
        yield prefix + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from keys_of(info.annotation, f"{prefix}{name}.")
