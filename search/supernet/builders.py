"""Build the networks that recipes describe."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from torch import nn

from irepdeploy.data import Dataset, DatasetFacts, ObjectDataset, load_dataset, load_objects
from irepdeploy.errors import RecipeError, one_line
from irepdeploy.network.nets import build_plain
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.branches import Branch
from irepdeploy.reparam.insert import Where, insert_branches
from irepdeploy.reparam.origin import set_origin
from irepdeploy.reparam.published import PUBLISHED

from .supernet import Supernet

__all__ = ["architecture_of", "build_net", "build_supernet", "load_data", "objects_of", "seeded", "with_branches"]

# sigmoid(0) * sigmoid(0): the initial factor of alpha and beta.
_FACTOR_AT_START = 0.25


def seeded(recipe: Recipe) -> None:
    """Set torch's number of threads and seed."""
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)


def load_data(recipe: Recipe) -> Dataset:
    """Load the recipe's data set."""
    assert recipe.data.name is not None
    return load_dataset(recipe.data.name, **_options(recipe))


def objects_of(recipe: Recipe) -> ObjectDataset:
    """Load the recipe's data set of objects."""
    assert recipe.data.name is not None
    return load_objects(recipe.data.name, **_options(recipe))


def _options(recipe: Recipe) -> dict[str, Any]:
    # Other keys of the section, such as root, are options of data sets that are read from files.
    given = recipe.data.model_dump(include={"root", "verify"}, exclude_none=True)
    return {**given, **recipe.data.options}


def build_net(recipe: Recipe, data: DatasetFacts | None = None) -> nn.Module:
    """Build the recipe's plain network for the shape and classes of its data, and set seed and threads."""
    seeded(recipe)
    data = load_data(recipe) if data is None else data
    assert recipe.net.name is not None
    for key in ("name", "num_classes", "input_shape", "in_channels"):
        if key in recipe.net.args:
            raise RecipeError("cannot be set here: it follows from net.name and the data", where=f"net.args.{key}")
    args = {"num_classes": len(data.classes), "input_shape": data.input_shape, **recipe.net.args}
    try:
        net = build_plain(recipe.net.name, **args)
        with torch.no_grad():
            net.eval()(torch.zeros(1, *data.input_shape))
    except RuntimeError as error:
        size = "x".join(map(str, data.input_shape))
        raise RecipeError(f"{recipe.net.name} cannot read images of {size}: {one_line(error)}", where="net") from error
    net.train()
    return set_origin(net, dataset=data.name, classes=data.classes)


def build_supernet(recipe: Recipe, data: DatasetFacts | None = None) -> Supernet:
    """Build the recipe's network with every possible branch of its preset, and set seed and threads."""
    settings = recipe.search
    return Supernet(build_net(recipe, data), recipe.branches, step=settings.step, compile=settings.compile)


def architecture_of(source: Architecture | str | os.PathLike[str] | None) -> Architecture | None:
    """Return an Architecture, given itself, as a file, or by the name of a published one."""
    if source is None or isinstance(source, Architecture):
        return source
    if not isinstance(source, str | os.PathLike):
        raise RecipeError(f"expected an Architecture, or its file or name, got {type(source).__name__}", where="--arch")
    published = PUBLISHED.get(os.fspath(source))
    return published if published is not None and not os.path.exists(source) else Architecture.load(source)


def with_branches(
    plain: nn.Module,
    branches: Architecture | str,
    factors: Literal["trainable", "folded", "none"] = "trainable",
    where: Where = "*",
    *,
    silent: bool = False,
) -> nn.Module:
    """Return a new network with the branches of an Architecture, or all branches of a preset wherever possible.

    Args:
        plain: The plain network; it is not changed.
        branches: An Architecture, or the name of a preset.
        factors: "trainable": alpha and beta weight the branches and are trained. "folded": their initial value is moved
            into the gamma of each branch's last batch normalization. "none": branches are unweighted, as in the presets
            of peers.
        where: Layers that get branches, as in `insert_branches`.
        silent: Whether branches start at zero.
    """
    if isinstance(branches, Architecture):
        names = [f".{name}" for name, _ in plain.named_modules()]
        # The Architecture may describe only a part of the network, such as its backbone.
        unknown = [layer for layer in branches.layers if not any(name.endswith(f".{layer}") for name in names)]
        if unknown:
            raise RecipeError(
                f"the Architecture belongs to another network: the recipe's network has no layer {unknown[0]!r}",
                where="--arch",
            )
    net = insert_branches(plain, branches, where, scaled=factors == "trainable", preserve=silent)
    if factors == "folded" and not silent:
        for module in net.modules():
            if isinstance(module, Branch):
                last = [inner for inner in module.modules() if isinstance(inner, nn.BatchNorm2d)][-1]
                nn.init.constant_(last.weight, _FACTOR_AT_START)
    return net
