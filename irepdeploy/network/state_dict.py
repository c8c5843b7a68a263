"""Read weights that other tools wrote: find the state dict in a file, and map its names to those of a network."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from irepdeploy.detect.detector import Detector
from irepdeploy.detect.key_map import our_names
from irepdeploy.errors import CheckpointError, MissingError, counted, first_line
from irepdeploy.network.plain_globals import PLAIN_GLOBALS

__all__ = [
    "fitted", "fitted_to", "is_safetensors", "is_state_dict", "is_usual", "read_legacy", "read_safetensors",
    "state_dicts",
]  # fmt: skip

# Keys under which training scripts store weights. Moving averages come first, since those were evaluated.
_KEYS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "state_dict",
    "model_state_dict", "model_state", "model", "net", "network", "module", "params", "weights", "state",
)  # fmt: skip
# Wrappers that add their name in front of names or, around a part of a network, in the middle.
_WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# AveragedModel stores the count of its updates with the weights, and thop leaves its counts in every module.
_COUNTERS = ("n_averaged", "total_ops", "total_params")


def is_state_dict(value: object) -> bool:
    """Return whether `value` is a state dict, that is, a dictionary of tensors by name."""
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(type(key) is str and isinstance(item, Tensor) for key, item in value.items())
    )


def is_usual(place: str) -> bool:
    """Return whether training scripts usually store weights at this place, so that the first of several is right."""
    return not place or place.split(".")[0] in _KEYS


def state_dicts(content: object, depth: int = 3) -> dict[str, dict[str, Tensor]]:
    """Return all state dicts of a file by their place, such as ``state_dict_ema``, starting with the preferred one."""
    if is_state_dict(content):
        assert isinstance(content, dict)
        return {"": content}
    found: dict[str, dict[str, Tensor]] = {}
    if isinstance(content, dict) and depth:
        for key in (*(key for key in _KEYS if key in content), *content):
            if type(key) is str and key in _KEYS:
                for place, state in state_dicts(content[key], depth - 1).items():
                    found.setdefault(f"{key}.{place}" if place else key, state)
        for key, value in {} if found else content.items():
            if type(key) is str and is_state_dict(value):
                found[key] = value
        # Some scripts save text and numbers in the same dictionary as the weights.
        tensors = {key: value for key, value in content.items() if type(key) is str and isinstance(value, Tensor)}
        if not found and 2 * len(tensors) > len(content):
            found[""] = tensors
    return found


def fitted(network: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the weights with the names and the precision of a network, and a description of the changes.

    Names that do not fit are kept, so that `load_weights` can list them.
    """
    given = our_names(state) if isinstance(network, Detector) else state
    return fitted_to({name: each for name, each in network.state_dict().items() if isinstance(each, Tensor)}, given)


def fitted_to(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the weights with the expected names and dtypes, and a description of the changes, as `fitted` does."""
    named, notes = _unwrapped(state, expected), list[str]()
    counts = [name for name in named if name.rpartition(".")[2] in _COUNTERS and name not in expected]
    for name in counts:
        del named[name]
    if any(name not in _COUNTERS for name in counts):
        notes.append(f"{counted(len(counts), 'count')} of operations ignored")
    prefix = _prefix(named, expected)
    if prefix:
        inside = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
        left = sorted(name for name in named if not name.startswith(prefix))
        # Ignore other tensors if the network fits completely; otherwise keep them, so that all are listed.
        whole = {name for name in expected if not name.endswith("num_batches_tracked")} <= set(inside) <= set(expected)
        named = inside if whole else {**inside, **{name: named[name] for name in left}}
        notes.append(f"names without {prefix!r}")
        if left and whole:
            shown = ", ".join([*left[:3], *(["..."] if len(left) > 3 else [])])
            notes.append(f"{counted(len(left), 'other tensor')} ignored ({shown})")
    for name, tensor in expected.items():
        # Files of old versions of torch lack this counter, which is not read in eval mode.
        if name.endswith("num_batches_tracked") and name not in named:
            named[name] = tensor
    kinds = Counter[str]()
    for name, tensor in named.items():
        like = expected.get(name)
        if like is not None and name.endswith("num_batches_tracked") and tensor.is_floating_point():
            # Averaging weights turns the counter into a float.
            named[name] = tensor = tensor.to(like.dtype)
        if like is not None and like.dtype != tensor.dtype and like.is_floating_point() and tensor.is_floating_point():
            named[name] = tensor.to(like.dtype)
            kinds[f"{tensor.dtype} in the file".removeprefix("torch.")] += 1
    return named, "; ".join([*notes, *kinds])


def is_safetensors(raw: bytes) -> bool:
    """Return whether `raw` is a safetensors file, which starts with the length of a header and the header."""
    return len(raw) > 9 and raw[8:9] == b"{" and int.from_bytes(raw[:8], "little") <= len(raw) - 8


def read_safetensors(raw: bytes, where: object) -> dict[str, Tensor]:
    """Return the weights of a safetensors file.

    Raises:
        MissingError: The library safetensors is not installed.
        CheckpointError: The file is damaged.
    """
    try:
        from safetensors.torch import load
    except ImportError:
        raise MissingError(
            "a safetensors file, but safetensors is not installed", where=where, hint="pip install safetensors"
        ) from None
    try:
        return load(raw)
    except Exception as error:  # anything that the library raises on a damaged file
        raise CheckpointError(f"a damaged safetensors file: {first_line(error)}", where=where) from error


def read_legacy(raw: bytes, where: object) -> object:
    """Return the content of a file written by torch before 1.6, or None for any other file; no code of it is run.

    Raises:
        CheckpointError: The file contains more than weights, or is damaged.
    """
    if not raw.startswith(_LEGACY):
        return None
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(PLAIN_GLOBALS):
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything on a hostile file
        raise CheckpointError(
            f"an old torch file that contains more than weights, or is damaged: {first_line(error)}",
            where=where,
            hint="save its state_dict() with a recent version of torch, where it was created",
        ) from None


def _unwrapped(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the parts of names that wrappers added, unless the network itself has such names."""
    wrappers = {part for part in _WRAPPERS if not any(part in name.split(".") for name in expected)}
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        bare = ".".join(part for part in name.split(".") if part not in wrappers)
        # If a file has a name both with and without the wrapper, both are kept.
        found[name if bare in found or (bare != name and bare in state) else bare] = tensor
    return found


def _prefix(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return the prefix of most of the expected names; in a tie, that of a moving average is preferred."""
    counts = Counter(prefix for name in state for prefix in _prefixes(name, expected))
    if not counts:
        return ""
    return max(counts, key=lambda prefix: (counts[prefix], "ema" in prefix.lower(), -len(prefix)))


def _prefixes(name: str, expected: Mapping[str, Tensor]) -> Iterator[str]:
    parts = name.split(".")
    for count in range(min(len(parts), 6)):
        if ".".join(parts[count:]) in expected:
            yield "".join(f"{part}." for part in parts[:count])
