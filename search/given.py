"""Subject and recipe of a caller's network, data and task."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from irepdeploy.data import Split, Stream, check_disjoint, held, opened
from irepdeploy.errors import InputError, IrepdeployError, ModelError, RecipeError, one_line
from irepdeploy.files import canonical_json, sha256
from irepdeploy.parsing.validation import faults_of
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.insert import Where
from irepdeploy.reparam.origin import origin_of, set_origin
from irepdeploy.reparam.wrappers import unwrapped
from irepdeploy.tasks import Task

from .supernet.subject import GIVEN, Subject

__all__ = ["Net", "given_recipe", "given_subject"]

Net = nn.Module | Callable[[], nn.Module]


def given_recipe(net: Net, section: str, settings: dict[str, Any], **others: Any) -> Recipe:
    """Return the recipe of a run with a caller's network: `settings` are keys of its section, `others` of the top.

    Raises:
        RecipeError: A key is unknown or has a wrong value.
    """
    name = type(net).__name__ if isinstance(net, nn.Module) else getattr(net, "__name__", type(net).__name__)
    try:
        return Recipe.model_validate({"net": {"name": name}, "data": {"name": GIVEN}, section: settings, **others})
    except ValidationError as error:
        known = [f"{section}.{key}" for key in type(getattr(Recipe(**_EMPTY), section)).model_fields]
        faults = [fault.removeprefix(f"{section}.") for fault in faults_of(error, known)]
        raise RecipeError("; ".join(faults), where=f"ird.{section}") from None


_EMPTY: dict[str, Any] = {"net": {"name": ""}, "data": {"name": ""}}


def given_subject(
    net: Net,
    train: Any,
    val: Any,
    test: Any,
    task: Task,
    recipe: Recipe,
    device: torch.device,
    batch_size: int,
    *,
    where: Where,
    allow_shared: bool,
) -> Subject:
    """Return the subject of a run, with a copy of the network; sets seed and threads.

    Raises:
        InputError: The data cannot be read, or search-validation images are training images too.
        ModelError: The factory of the network fails, or gives no network.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    plain = _built(net)
    random = torch.get_rng_state()
    dtype = next((each.dtype for each in plain.parameters() if each.is_floating_point()), torch.float32)
    training = opened(train, task.read, "train", dtype)
    validation = held(opened(val, task.read, "val", dtype), batch_size, device)
    if not allow_shared:
        check_disjoint(train, val, training, validation)
    testing = None if test is None else opened(test, task.read, "test", dtype)
    shape = tuple(_first_input(training, batch_size).shape[1:])
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
    }
    # However the data was read, the branches start alike.
    torch.set_rng_state(random)
    return Subject(plain, task, training, validation, lambda: testing, shape, where, facts)


def _built(net: Net) -> nn.Module:
    if isinstance(net, nn.Module):
        return copy.deepcopy(unwrapped(net))
    if not callable(net):
        raise ModelError(f"expected a torch.nn.Module or a function that builds one, got {type(net).__name__}")
    name = getattr(net, "__qualname__", repr(net))
    try:
        found = net()
    except IrepdeployError:
        raise
    except Exception as error:  # anything that a user's factory raises
        raise ModelError(f"the factory raised {type(error).__name__}: {one_line(error)}", where=name) from error
    if not isinstance(found, nn.Module):
        raise ModelError(f"expected a torch.nn.Module from the factory, got {type(found).__name__}", where=name)
    return unwrapped(found)


def _first_input(data: Split | Stream, batch_size: int) -> torch.Tensor:
    if isinstance(data, Split):
        return data.images[:1]
    for inputs, _ in data.batches(batch_size):
        return inputs
    raise InputError("no batch: the data ended at once", where=data.name)
