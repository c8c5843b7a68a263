"""Build networks of timm, torchvision and the Hugging Face hub by name, with these libraries if installed."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from torch import nn

from irepdeploy.errors import InputError, MissingError, ModelError, first_line
from irepdeploy.network.archive import weights_only
from irepdeploy.reparam.origin import Origin, set_origin

__all__ = ["LibraryName", "build_library_network", "is_random", "library_name", "open_library_network"]

_NAME = re.compile(
    r"(?:(?P<library>timm|torchvision)/(?P<name>\w[\w.-]*)|hf[-_]hub:(?P<hub>[\w.-]+/\w[\w.-]*(?:@[\w./-]+)?))"
    r"(?P<random>:random)?",
    re.ASCII,
)
# A checkpoint may contain only these arguments, because some builders accept paths and URLs.
_ARGUMENTS = {
    "timm": {"num_classes": int, "in_chans": int, "img_size": int, "global_pool": str},
    "torchvision": {"num_classes": int, "transform_input": bool, "aux_logits": bool, "aux_loss": bool},
}


@dataclass(frozen=True)
class LibraryName:
    """Name of a network of a library, such as ``timm/resnet18`` or ``torchvision/resnet50.IMAGENET1K_V1:random``.

    Attributes:
        text: The whole name without ``:random``.
        library: The package that builds the network.
        name: Name of the network in that package.
        random: Whether the network gets random instead of pretrained weights.
    """

    text: str
    library: str
    name: str
    random: bool


def library_name(source: str) -> LibraryName | None:
    """Parse ``timm/NAME``, ``torchvision/NAME[.WEIGHTS]`` or ``hf-hub:OWNER/NAME``; return None for anything else."""
    found = _NAME.fullmatch(source)
    if found is None:
        return None
    text = source.removesuffix(":random")
    if found["hub"] is not None:
        return LibraryName(text, "timm", f"hf-hub:{found['hub']}", found["random"] is not None)
    return LibraryName(text, found["library"], found["name"], found["random"] is not None)


def is_random(name: str) -> bool:
    """Return whether the network of this name gets random weights, as those of irepdeploy always do."""
    found = library_name(name)
    return found is None or found.random


def open_library_network(
    asked: LibraryName, args: Mapping[str, Any] | None = None, **data: int | None
) -> tuple[nn.Module, str]:
    """Build a network of a library in eval mode, with an Origin.

    Random weights are drawn from torch's global generator. The library downloads and caches pretrained weights, but
    must not run code from a file.

    Args:
        asked: Name of the network.
        args: Arguments for the library's own function, such as num_classes.
        data: num_classes and in_chans of the data, for networks that support other values than they were trained with.

    Returns:
        The network and a description of where its weights come from.

    Raises:
        MissingError: The library is not installed, or the weights cannot be downloaded.
        InputError: The library has no such network, or no weights for it.
    """
    library = _imported(asked.library)
    try:
        with weights_only():
            if asked.library == "timm":
                fit = {key: value for key, value in data.items() if value is not None}
                model = library.create_model(asked.name, pretrained=not asked.random, **{**fit, **(args or {})})
                net, known, shape, tag = _of_timm(model, asked)
            else:
                classes = data.get("num_classes") if asked.random else None
                own = {**({} if classes is None else {"num_classes": classes}), **(args or {})}
                model, net, known, shape, tag = _from_torchvision(library.models, asked, own)
    except OSError as error:
        raise MissingError(
            f"cannot download the weights: {_root(error)}", where=asked.text, hint=_offline(asked)
        ) from error
    except Exception as error:  # libraries raise anything on names that they do not know
        raise _unknown(library, asked, error) from error
    statistics = (
        "random" if asked.random else f"pretrained{tag and f' {tag}'}, {asked.library} {_version(asked.library)}"
    )
    return set_origin(model.eval(), Origin(net=net, args=known, input_shape=shape)), statistics


def build_library_network(name: str, args: Mapping[str, Any]) -> nn.Module:
    """Build the network of a checkpoint without downloading anything.

    Raises:
        MissingError: The library is not installed.
        ModelError: The library has no such network, or does not accept these arguments.
    """
    asked = library_name(name)
    known = {} if asked is None else _ARGUMENTS[asked.library]
    if asked is None or asked.random or asked.name.startswith("hf-hub:"):
        raise ModelError("unknown network", where=name)
    if not all(type(value) is known.get(key) for key, value in args.items()):
        raise ModelError(f"expected only {', '.join(known)} as arguments, got {', '.join(args)}", where=name)
    library = _imported(asked.library)
    try:
        if asked.library == "timm":
            model = library.create_model(asked.name, pretrained=False, **args)
            shape = tuple(model.pretrained_cfg["input_size"])
        else:
            builder = library.models.get_model_builder(asked.name)
            model = builder(**_without_weights(builder), **args)
            shape = _image(library.models, asked.name, None)
    except Exception as error:  # libraries raise anything on names and arguments that they do not know
        raise ModelError(
            f"{asked.library} {_version(asked.library)} cannot build it: {first_line(error)}", where=name
        ) from error
    return set_origin(model, Origin(net=name, args=dict(args), input_shape=shape))


def _of_timm(model: nn.Module, asked: LibraryName) -> tuple[str | None, dict[str, Any], tuple[int, ...], str]:
    """Return the name and arguments to build a network again, the shape of its image and the tag of its weights."""
    found: Any = model.pretrained_cfg
    tag = found.get("tag") or ""
    args = {key: value for key, value in getattr(model, "_model_args", {}).items() if value is not None}
    fits = _known("timm", args)
    # A name without a tag may refer to other weights later; a tag is meaningless with random weights.
    known = f"timm/{found['architecture']}{tag and f'.{tag}'}"
    net = asked.text if asked.random and not asked.name.startswith("hf-hub:") else known
    return net if fits else None, args if fits else {}, tuple(found["input_size"]), tag or found.get("hf_hub_id") or ""


def _from_torchvision(
    models: Any, asked: LibraryName, own: Mapping[str, Any]
) -> tuple[nn.Module, str | None, dict[str, Any], tuple[int, ...], str]:
    name, _, wanted = asked.name.partition(".")
    builder = models.get_model_builder(name)
    if asked.random:
        model, fits = builder(**_without_weights(builder), **own), _known("torchvision", own)
        shape = _image(models, name, None)
        return model, f"torchvision/{name}" if fits else None, dict(own) if fits else {}, shape, ""
    weights = models.get_model_weights(name)[wanted or "DEFAULT"]
    model = builder(weights=weights, **own)
    # Weights set some arguments themselves; read them back from the attributes.
    args = {"num_classes": len(weights.meta["categories"])}
    for key in ("transform_input", "aux_logits"):
        if key in inspect.signature(builder).parameters or hasattr(model, key):
            args[key] = bool(getattr(model, key))
    if hasattr(model, "aux_classifier"):
        args["aux_loss"] = model.aux_classifier is not None
    if any(type(module).__name__ == "FrozenBatchNorm2d" for module in model.modules()):
        # Detectors have other layers with weights than without, so they cannot be built again without weights.
        return model, None, {}, _image(models, name, weights), weights.name
    return model, f"torchvision/{name}", args, _image(models, name, weights), weights.name


def _known(library: str, args: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint may contain these arguments."""
    return all(type(value) is _ARGUMENTS[library].get(key) for key, value in args.items())


def _without_weights(builder: Any) -> dict[str, Any]:
    names = inspect.signature(builder).parameters
    return {name: None for name in ("weights", "weights_backbone") if name in names}


def _image(models: Any, name: str, weights: Any) -> tuple[int, ...]:
    """Return the shape of the images on which the weights were trained, or () for detectors, which take any size."""
    chosen = models.get_model_weights(name).DEFAULT if weights is None else weights
    preset = chosen.transforms()
    size = getattr(preset, "crop_size", None) or getattr(preset, "resize_size", None)
    return () if not size else (3, *(size * 2)[:2])


def _imported(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError:
        raise MissingError(f"{library} is not installed", hint=f"pip install {library}") from None
    except Exception as error:  # for example, a torchvision that was built for another version of torch
        raise MissingError(
            f"{library} cannot be imported: {first_line(error)}", hint=f"pip install --upgrade torch {library}"
        ) from error


def _version(library: str) -> str:
    try:
        return version(library)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _root(error: BaseException) -> str:
    """Return the root cause of a failed download, which libraries wrap in their own advice."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return first_line(error)


def _offline(asked: LibraryName) -> str:
    return (
        f"{asked.text}:random has random weights" if not asked.name.startswith("hf-hub:") else "is the hub reachable?"
    )


def _unknown(library: Any, asked: LibraryName, error: Exception) -> InputError:
    models = library if asked.library == "timm" else library.models
    name = re.split(r"[.]", asked.name)[0]
    known = [] if asked.name.startswith("hf-hub:") else list(models.list_models())
    if name in known:
        if asked.random:
            return ModelError(f"{asked.library} cannot build it: {first_line(error)}", where=asked.text)
        return InputError(f"no such weights: {first_line(error)}", where=asked.text, hint=_offline(asked))
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(f'{asked.library}/{each}' for each in near)}?" if near else None
    return InputError(
        f"{asked.library} {_version(asked.library)} has no such network: {first_line(error)}",
        where=asked.text,
        hint=hint,
    )
