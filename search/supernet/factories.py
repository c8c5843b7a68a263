"""Data, networks and tasks that a recipe names by a user's function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from irepdeploy.data import Dataset, Split, Stream, opened
from irepdeploy.errors import InputError, IrepdeployError, ModelError, one_line
from irepdeploy.network.checkpoint import load
from irepdeploy.network.factory import imported, load_model_factory
from irepdeploy.network.libraries import library_name, open_library_network
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.origin import set_origin
from irepdeploy.reparam.structure import copied
from irepdeploy.reparam.wrappers import refuse_uninitialized, unwrapped
from irepdeploy.tasks import Task, task_of

__all__ = [
    "GivenData", "Net", "class_count", "data_by_factory", "first_input", "made", "network_by_factory", "recipe_task",
    "weighted",
]  # fmt: skip

Net = nn.Module | Callable[[], nn.Module]

_SETS = ("train", "val", "test", "classes")


@dataclass(frozen=True)
class GivenData:
    """Data sets of a user, each in a form that `irepdeploy.search` takes.

    Args:
        train: Training samples.
        val: Search-validation samples.
        load_test: Function that returns the test samples, or None if there are none.
        classes: Names of the classes, if known.
        input_shape: (C, H, W) that the network is built for. None: the shape of the first image.
    """

    train: Any
    val: Any
    load_test: Callable[[], Any] = lambda: None
    classes: tuple[str, ...] = ()
    input_shape: tuple[int, ...] | None = None


def recipe_task(recipe: Recipe, **settings: Any) -> Task:
    """Return the task of a recipe, given by name or as ``package.module:NAME`` of a class, a function or an object.

    Raises:
        InputError: It does not exist, or is not a Task.
    """
    if ":" not in recipe.task:
        return task_of(recipe.task, **settings)
    found = imported(recipe.task, "Task")
    task = found if isinstance(found, Task) else _called(found, recipe.task, {}, InputError)
    if not isinstance(task, Task):
        raise InputError(
            f"expected an irepdeploy.tasks.Task, got {type(task).__name__}", where=recipe.task, hint="subclass Task"
        )
    return task_of(task, **settings)


def data_by_factory(recipe: Recipe) -> GivenData:
    """Call the recipe's data.factory with data.options, and with data.root and data.verify if they are set.

    Raises:
        InputError: It cannot be imported, fails, or does not return data sets.
    """
    spec, section = recipe.data.factory, recipe.data
    assert spec is not None
    options = section.model_dump(include={"root", "verify"}, exclude_none=True) | section.options
    found = _called(imported(spec), spec, options, InputError, "data.options")
    if isinstance(found, Dataset):
        return GivenData(found.train, found.val, found.load_test, found.classes)
    if isinstance(found, tuple | list) and any(isinstance(each, Tensor | np.ndarray) for each in found):
        raise InputError(
            "expected sets, got arrays", where=spec, hint="return one pair for each: (images, labels), (images, labels)"
        )
    if isinstance(found, tuple | list) and len(found) in (2, 3):
        found = dict(zip(_SETS, found, strict=False))
    if not (isinstance(found, Mapping) and {"train", "val"} <= set(found) <= set(_SETS)):
        got = f"keys {', '.join(map(str, found))}" if isinstance(found, Mapping) else type(found).__name__
        size = f" of {len(found)}" if isinstance(found, tuple | list) else ""
        raise InputError(
            f"expected (train, val), (train, val, test) or a dictionary of them, got {got}{size}",
            where=spec,
            hint='such as {"train": ..., "val": ..., "test": ..., "classes": ["cat", "dog"]}',
        )
    names, test = found.get("classes") or (), found.get("test")
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not listed or not all(isinstance(name, str) for name in names):
        raise InputError('expected names as "classes"', where=spec, hint='such as ["cat", "dog"]')
    return GivenData(found["train"], found["val"], lambda: test, tuple(names))


def network_by_factory(recipe: Recipe, classes: int | None, channels: int | None) -> nn.Module:
    """Build the network of the recipe's net.factory in train mode, with an Origin that describes how to rebuild it.

    A network of a library gets the number of classes and channels of the data.

    Raises:
        InputError: The factory cannot be imported, fails, or returns something else.
        MissingError: The library is not installed.
    """
    spec, args = recipe.net.factory, dict(recipe.net.args)
    assert spec is not None
    asked = library_name(spec)
    if asked is not None:
        return open_library_network(asked, args, num_classes=classes, in_chans=channels)[0].train()
    factory = load_model_factory(spec)
    net = made(lambda: _called(factory, spec, args, ModelError, "net.args"), spec)
    return set_origin(net, factory=spec, args=args)


def weighted(net: nn.Module, file: str) -> nn.Module:
    """Return the network in train mode with the weights of a state dict or checkpoint, which must fit.

    Raises:
        CheckpointError: The weights do not fit, or the file does not contain weights.
        InputError: The file is missing, or the network in it has branches.
    """
    found = load(Path(file).expanduser(), model=net)
    if any(isinstance(module, RepBlock) for module in found.modules()):
        raise InputError("these weights have branches already", where=file, hint="give those of a plain network")
    return found.train()


def made(net: Net, where: str | None = None) -> nn.Module:
    """Return a copy of a network, or the network that a function builds, without wrappers.

    Raises:
        ModelError: `net` is neither a network nor a function, or the function fails.
    """
    if isinstance(net, nn.Module):
        plain = unwrapped(net)
        refuse_uninitialized(plain)
        return copied(plain)
    if not callable(net):
        raise ModelError(f"expected a torch.nn.Module or a function that builds one, got {type(net).__name__}")
    name = where or getattr(net, "__qualname__", repr(net))
    found = _called(net, str(name), {}, ModelError)
    if not isinstance(found, nn.Module):
        raise ModelError(f"expected a torch.nn.Module from the factory, got {type(found).__name__}", where=name)
    refuse_uninitialized(unwrapped(found))
    return unwrapped(found)


def first_input(data: Split | Stream, batch_size: int) -> torch.Tensor:
    """Return the inputs of the first batch, or of the first sample of data in memory."""
    if isinstance(data, Split):
        return data.images[:1]
    for inputs, _ in data.batches(batch_size):
        return inputs
    raise InputError("no batch: the data ended at once", where=data.name)


def class_count(data: GivenData, task: Task) -> int | None:
    """Return the number of classes from their names or from labels in memory; None if unknown."""
    if data.classes:
        return len(data.classes)
    train = opened(data.train, task.read, "train")
    labels = train.labels if isinstance(train, Split) else None
    whole = isinstance(labels, torch.Tensor) and labels.ndim == 1 and not labels.is_floating_point()
    return int(labels.max()) + 1 if whole and labels is not None else None


def _called(function: Any, where: str, options: Mapping[str, Any], error_class: type[InputError], key: str = "") -> Any:
    """Call a user's function; `key` is the recipe key of its arguments, or "" if it was passed in Python."""
    if not callable(function):
        raise error_class(f"expected a function, got {type(function).__name__}", where=where)
    with suppress(TypeError, ValueError):  # Python does not know every signature
        signature = inspect.signature(function)
        try:
            signature.bind(**options)
        except TypeError as error:
            what = "does not take these arguments" if options else "needs arguments"
            hint = f"{key}={{NAME: VALUE}} gives them" if key else "functools.partial(f, NAME=VALUE) needs none"
            raise error_class(f"the factory {what}: {one_line(error)}", where=where, hint=hint) from None
    try:
        # Keep relative paths of the run valid if a factory changes the working directory.
        with chdir(Path.cwd()):
            return function(**options)
    except IrepdeployError:
        raise
    except (Exception, SystemExit) as error:  # anything that a user's factory raises
        raise error_class(f"the factory raised {type(error).__name__}: {one_line(error)}", where=where) from error
