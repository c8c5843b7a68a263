"""Outputs of a network's convolutions for an image, of the fixed operation alone and with its branches."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from irepdeploy.errors import InputError, one_line
from irepdeploy.network.source import Source, open_source, with_blocks
from irepdeploy.plots.images import ShownImage, read_images
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.origin import FUSED, origin_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FeatureMaps", "checkpoint_in", "chosen_layers", "feature_maps", "layer_names", "read_features", "why_untrained",
]  # fmt: skip

Array = np.ndarray[Any, Any]

_FEWEST, _MOST_COLUMNS = 2, 10


@dataclass(frozen=True)
class FeatureMaps:
    """The feature maps of one network: absolute outputs averaged over channels, (H', W'), by image and layer.

    `fixed` contains the maps of the fixed operations alone, and is empty if there are no branches; `fused` contains the
    maps with branches. `untrained` explains why the weights are meaningless, or is "".
    """

    label: str
    images: Sequence[ShownImage]
    layers: tuple[str, ...]
    fixed: Sequence[Mapping[str, Array]]
    fused: Sequence[Mapping[str, Array]]
    untrained: str = ""


def feature_maps(
    model: nn.Module,
    images: Sequence[ShownImage],
    layers: Sequence[str],
    *,
    label: str = "network",
    untrained: str = "",
) -> FeatureMaps:
    """Run a network in eval mode on each image and record the outputs of some layers.

    Args:
        model: The network.
        images: Images to run it on.
        layers: Names of the layers, out of `layer_names`.
        label: Name of the network for the drawing and for error messages.
        untrained: Why the weights are meaningless, or "".

    Raises:
        InputError: The network does not run on an image, or does not use any of the layers.
    """
    network = _viewed(model)
    blocks = {name: network.get_submodule(name) for name in layers}
    fixed: list[dict[str, Array]] = []
    fused: list[dict[str, Array]] = []
    for image in images:
        alone: dict[str, Array] = {}
        whole: dict[str, Array] = {}
        handles = []
        for name, block in blocks.items():
            handles.append(block.register_forward_hook(_keep(whole, name)))
            if isinstance(block, RepBlock) and block.active:
                handles.append(block.fixed.register_forward_hook(_keep(alone, name)))
        try:
            with torch.no_grad():
                network(torch.from_numpy(image.array)[None])
        except (RuntimeError, TypeError, ValueError) as error:
            text = f"{'x'.join(map(str, image.array.shape))}: {one_line(error, 200)}"
            raise InputError(f"the network does not run on images of {text}", where=label) from error
        finally:
            for handle in handles:
                handle.remove()
        fixed.append(alone)
        fused.append(whole)
    reached = tuple(name for name in layers if all(name in maps for maps in fused))
    if not reached:
        raise InputError("the network uses none of these layers", where=label)
    return FeatureMaps(label, images, reached, fixed if any(fixed) else [], fused, untrained)


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the RepBlocks of a network.

    For a fused network, these are the convolutions into which RepBlocks were fused; for a network without RepBlocks,
    the 3x3 convolutions that could get branches.
    """
    network = _viewed(model)
    blocks = tuple(name for name, module in network.named_modules() if isinstance(module, RepBlock))
    origin = origin_of(network)
    if blocks or origin.state != FUSED:
        return blocks
    modules = dict(network.named_modules())
    return tuple(layer.name for layer in origin.layers if layer.name in modules)


def chosen_layers(names: Sequence[str], glob: str | None, columns: int) -> tuple[str, ...]:
    """Return at most `columns` evenly spaced names that match `glob`, including the first and the last."""
    if columns < _FEWEST:
        raise InputError(f"cannot draw {columns} columns", hint=f"at least {_FEWEST}")
    found = [name for name in names if glob is None or fnmatchcase(name, glob)]
    if not found:
        raise InputError(f"no layer matches {glob!r}", hint=f"{names[0]} is a layer")
    if len(found) <= columns:
        return tuple(found)
    return tuple(found[round(index * (len(found) - 1) / (columns - 1))] for index in range(columns))


def read_features(
    sources: Mapping[str, str | os.PathLike[str]],
    files: Sequence[str | os.PathLike[str]] = (),
    *,
    layers: str | None = None,
    columns: int = _MOST_COLUMNS,
    model_factory: Callable[[], nn.Module] | None = None,
) -> list[FeatureMaps]:
    """Return the feature maps of several networks for their common layers.

    Args:
        sources: Checkpoints, training folders, or names of networks (with random weights), by label.
        files: Images. Default: those of `read_images`.
        layers: Glob that layer names must match; None for all.
        columns: Maximum number of layers, which are evenly spaced.
        model_factory: Function that builds the network, for checkpoints of the user's own class.

    Raises:
        InputError: A source is not a network with suitable layers, or the networks have no layer in common.
    """
    opened = {label: open_source(checkpoint_in(source), model_factory) for label, source in sources.items()}
    names = {label: layer_names(source.model) for label, source in opened.items()}
    for label, own in names.items():
        if not own:
            raise InputError("this network has no 3x3 convolution that could get branches", where=label)
    first = next(iter(names.values()), ())
    common = [name for name in first if all(name in own for own in names.values())]
    if not common:
        raise InputError("these networks have no layer in common", where=", ".join(names), hint="draw them one by one")
    chosen = chosen_layers(common, layers, columns)
    return [
        feature_maps(
            source.model,
            read_images(files, source.origin.input_shape, source.origin.dataset),
            chosen,
            label=label,
            untrained=why_untrained(source),
        )
        for label, source in opened.items()
    ]


def checkpoint_in(source: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the checkpoint in a training folder; return any other source unchanged."""
    best = Path(source) / "best.pt"
    return best if best.is_file() else source


def why_untrained(source: Source) -> str:
    """Return why the weights of a network are meaningless, or ""."""
    statistics = str(source.facts["statistics"])
    if "random" in statistics or "fresh" in statistics:
        return statistics if statistics.startswith("random") else f"branches {statistics.partition('branches ')[2]}"
    norms = [module for module in source.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm for norm in norms if norm.running_mean is not None and norm.running_var is not None]
    if tracked and all(_is_fresh(norm) for norm in tracked):
        return "its batch normalization has never been trained"
    return ""


def _is_fresh(norm: Any) -> bool:
    return bool((norm.running_mean == 0).all() and (norm.running_var == 1).all())


def _viewed(model: nn.Module) -> nn.Module:
    """Wrap each eligible convolution of `model` in a block, which includes its batch normalization."""
    return (with_blocks(model) or model).eval()


def _keep(maps: dict[str, Array], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        # Copy now, because later operations add to the output of the fixed one in place.
        maps[name] = output[0].abs().mean(0).float().numpy()

    return hook
