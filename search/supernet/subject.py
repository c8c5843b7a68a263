"""Subject of a run: the network, the data and the task, from a recipe or passed by the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from irepdeploy.data import Dataset, DatasetFacts, Split, Stream, check_disjoint, held, opened
from irepdeploy.errors import ModelError, RecipeError
from irepdeploy.files import canonical_json, sha256
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.insert import Where
from irepdeploy.reparam.origin import origin_of, set_origin
from irepdeploy.runs.schema import MetricFacts
from irepdeploy.tasks import Classification, Detection, Task

from .builders import build_net, load_data, objects_of, seeded
from .factories import (
    GivenData,
    Net,
    class_count,
    data_by_factory,
    first_input,
    made,
    network_by_factory,
    recipe_task,
    weighted,
)

__all__ = ["GIVEN", "Subject", "given_subject", "subject_of", "with_data"]

# Name of the data set in the recipe of a run whose network, data and task were passed in Python.
GIVEN = "given"


@dataclass(frozen=True)
class Subject:
    """Network, data and task of a search or training.

    Args:
        net: The plain network; it is not changed.
        train: Training samples.
        val: Search-validation samples.
        load_test: Function that opens the test samples and returns None if there are none.
        input_shape: (C, H, W) of a sample.
        where: Layers that get branches, as in `insert_branches`.
        facts: Fields that identify network and data if the recipe does not name them.
        classes: Number of classes that the data names; None if it names none.
        note: How the test set was chosen if the data has none of its own; else "".
    """

    net: nn.Module
    task: Task
    train: Split | Stream
    val: Split | Stream
    load_test: Callable[[], Split | Stream | None]
    input_shape: tuple[int, ...]
    where: Where = "*"
    facts: dict[str, Any] = field(default_factory=dict)
    classes: int | None = None
    note: str = ""

    @property
    def metric(self) -> MetricFacts | None:
        """The metric as recorded in files; None for accuracy."""
        metric = self.task.metric
        return None if metric == Classification.metric else MetricFacts(name=metric.name, unit=metric.unit)

    @property
    def recorded(self) -> dict[str, Any]:
        """The metric as keyword arguments of records; empty for accuracy."""
        return {} if self.metric is None else {"metric": self.metric}

    def identity(self, recipe: str) -> str:
        """Return the identity of a run: the recipe, and `facts` if the recipe does not name network and data."""
        return recipe if not self.facts else canonical_json([recipe, self.facts]).decode()


def subject_of(
    recipe: Recipe,
    device: torch.device | None = None,
    *,
    batch_size: int = 64,
    smoothing: float = 0,
    given: nn.Module | None = None,
) -> Subject:
    """Load the data and build the network of a recipe, and set seed and threads.

    Args:
        recipe: The recipe.
        device: Device on which a user's search-validation samples are kept, if they fit.
        batch_size: Batch size with which these samples are read.
        smoothing: Label smoothing of the task.
        given: Network that replaces the recipe's.
    """
    task = recipe_task(recipe, **({"label_smoothing": smoothing} if smoothing else {}))
    net = recipe.net
    if recipe.data.factory is None:
        if isinstance(task, Detection):
            found = objects_of(recipe)
            objects = GivenData(found.train, found.val, found.load_test, found.classes, found.input_shape)
            return _of_sets(recipe, objects, task, device, batch_size, given)
        data = load_data(recipe)
        own = net.factory is not None or net.weights is not None or given is not None
        if not own and isinstance(task, Classification):
            return replace(with_data(build_net(recipe, data), data, task), where=net.where)
        sets = GivenData(data.train, data.val, data.load_test, data.classes)
        return replace(_of_sets(recipe, sets, task, device, batch_size, given), note=data.note)
    seeded(recipe)
    return _of_sets(recipe, data_by_factory(recipe), task, device, batch_size, given)


def _of_sets(
    recipe: Recipe,
    sets: GivenData,
    task: Task,
    device: torch.device | None,
    batch_size: int,
    given: nn.Module | None,
) -> Subject:
    def plain() -> nn.Module:
        return _weighted(recipe, _built(recipe, sets, task))

    allowed = recipe.data.factory is None
    return given_subject(
        given or plain,
        sets,
        task,
        recipe,
        device or torch.device("cpu"),
        batch_size,
        where=recipe.net.where,
        allow_shared=allowed,
    )


def with_data(net: nn.Module, data: Dataset, task: Task | None = None) -> Subject:
    """Return the subject of a network and one of our data sets."""
    task = Classification() if task is None else task
    classes = len(data.classes) or None
    return Subject(net, task, data.train, data.val, data.load_test, data.input_shape, classes=classes, note=data.note)


def given_subject(
    net: Net,
    data: GivenData,
    task: Task,
    recipe: Recipe,
    device: torch.device,
    batch_size: int,
    *,
    where: Where,
    allow_shared: bool,
) -> Subject:
    """Return the subject of a run, with a copy of the network, and set seed and threads.

    Raises:
        InputError: The data cannot be read, or search-validation images are also training images.
        ModelError: The factory of the network fails or does not return a network.
    """
    seeded(recipe)
    plain = made(net)
    for name, parameter in plain.named_parameters():
        if parameter.is_meta:
            raise ModelError("a weight without values, on the meta device", where=name, hint="net.to_empty(...)")
        if parameter.dtype == torch.float16:
            # Adam's epsilon is 0 in float16, so alpha and beta would become NaN in their first step.
            hint = "give net.float(); amp=True computes in bfloat16"
            raise ModelError("float16 weights cannot be trained", where=name, hint=hint)
    random = torch.get_rng_state()
    dtype = next((each.dtype for each in plain.parameters() if each.is_floating_point()), torch.float32)
    training = opened(data.train, task.read, "train", dtype)
    validation = held(opened(data.val, task.read, "val", dtype), batch_size, device)
    if not allow_shared:
        check_disjoint(data.train, data.val, training, validation)
    test = data.load_test()
    testing = None if test is None else opened(test, task.read, "test", dtype)
    shape = data.input_shape or tuple(first_input(training, batch_size).shape[1:])
    if len(shape) == 3 and not origin_of(plain).input_shape:
        set_origin(plain, input_shape=shape)
    layers = [[name, str(value.dtype), list(value.shape)] for name, value in plain.state_dict().items()]
    facts = {
        "net": sha256(canonical_json(layers)),
        "where": where if isinstance(where, str) else getattr(where, "__qualname__", str(where)),
        "task": task.settings(),
        "train": len(training),
        "val": len(validation),
        "input_shape": list(shape),
        **({"weights": sha256(Path(recipe.net.weights).expanduser())} if recipe.net.weights else {}),
    }
    # Branches must start alike, no matter how the data was read.
    torch.set_rng_state(random)
    classes = len(data.classes) or None
    return Subject(plain, task.bound(plain), training, validation, lambda: testing, shape, where, facts, classes)


def _built(recipe: Recipe, given: GivenData, task: Task) -> nn.Module:
    """Build the recipe's network for the data; a network of irepdeploy needs the number of classes."""
    shape = given.input_shape or tuple(first_input(opened(given.train, task.read, "train"), 1).shape[1:])
    classes = class_count(given, task) if isinstance(task, Classification) else len(given.classes) or None
    # Reading the data may have drawn random numbers.
    seeded(recipe)
    if recipe.net.factory is not None:
        # Three is the default of libraries.
        net = network_by_factory(recipe, classes, shape[0] if len(shape) == 3 and shape[0] != 3 else None)
        # Image sizes may differ from those that the library trained on.
        net = set_origin(net, input_shape=shape) if len(shape) == 3 else net
    else:
        if classes is None or len(shape) != 3:
            raise RecipeError(
                f"{recipe.net.name} needs images (C, H, W) and the names of their classes",
                where=recipe.data.label,
                hint='return "classes" in addition to "train" and "val", or name your own network with net.factory',
            )
        names = given.classes or tuple(map(str, range(classes)))
        channels = shape[0]
        facts = DatasetFacts(recipe.data.label, shape, names, (0.0,) * channels, (1.0,) * channels)
        net = build_net(recipe, facts)
    # A certificate can compare on real images of our own data sets.
    return set_origin(net, dataset=recipe.data.name, classes=given.classes)


def _weighted(recipe: Recipe, net: nn.Module) -> nn.Module:
    if recipe.net.weights is None:
        return net
    before = origin_of(net)
    found = weighted(net, recipe.net.weights)
    # Facts about fused layers come from the weights, all others from the run.
    return set_origin(found, replace(before, layers=origin_of(found).layers, state=origin_of(found).state))
