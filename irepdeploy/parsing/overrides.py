"""Overrides ``key=value`` of a nested mapping with dotted keys, from the command line or from named sets."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from irepdeploy.errors import RecipeError
from irepdeploy.parsing.yaml_text import YamlError, parse_yaml

__all__ = ["Override", "copied", "full_key", "giving_way", "pair", "put", "scale_of"]

Override = tuple[str, Any]

_OF_DATA = ("root", "verify", "options")
_SIZES = ("train", "val")
_SIZE_KEYS = tuple(f"data.options.{size}" for size in _SIZES)


def pair(override: str) -> Override:
    """Split ``key=value`` and parse the value as YAML.

    Raises:
        RecipeError: The text does not have this form.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"expected key=value, got {override!r}", hint="for example search.population=8")
    try:
        return key, parse_yaml(text)
    except YamlError as error:
        raise RecipeError(f"{reprlib.repr(text)} is not a value: {error}", where=key) from None


def scale_of(scales: Any, name: Any) -> list[Override]:
    """Return the overrides of the scale called `name`.

    Raises:
        RecipeError: There is no such scale.
    """
    known = {str(key): value for key, value in scales.items()} if isinstance(scales, dict) else {}
    chosen = known.get(str(name))
    if not isinstance(chosen, dict):
        raise RecipeError(
            f"unknown scale {reprlib.repr(name)}",
            hint=f"one of {', '.join(known)}" if known else "this recipe defines no scales",
        )
    return [(str(key), value) for key, value in chosen.items()]


def put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key, in place; raise RecipeError if a part of the key is not a mapping."""
    path = key.split(".")
    place = content
    for part in path[:-1]:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{part!r} has no keys", where=key)
        place = inner
    place[path[-1]] = value


def full_key(key: str, known: Sequence[str], free: tuple[str, ...]) -> str:
    """Return the full dotted key for `key`.

    Args:
        key: A known key, a key that starts with a prefix in `free`, or the last part of exactly one known key.
        known: All known keys.
        free: Prefixes of keys that are not checked.

    Raises:
        RecipeError: The key is unknown or ambiguous.
    """
    if key in known or key.startswith(free):
        return key
    ends = [full for full in known if full.endswith(f".{key}")]
    if len(ends) == 1:
        return ends[0]
    if len(ends) > 1:
        raise RecipeError(f"{key!r} is ambiguous", hint=f"one of {', '.join(ends)}")
    near = difflib.get_close_matches(key, [*known, *(full.rsplit(".", 1)[-1] for full in known)], n=3)
    sections = [full for full in known if "." not in full]
    hint = f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else f"the sections are {', '.join(sections)}"
    raise RecipeError(f"unknown key {key!r}", hint=hint)


def copied(value: Any) -> Any:
    """Copy nested mappings."""
    return {key: copied(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def giving_way(content: dict[str, Any], scale: list[Override], single: list[Override]) -> list[Override]:
    """Return the overrides of a scale, without those of a network or data that the command line replaces.

    Sizes of the sets are kept, so that `scale=smoke data.root=DIR` is a small run on real data. The recipe's own
    settings of the replaced network or data are removed from `content` as well.
    """
    line = {key for key, _ in single}
    for section, chosen in (("net", "factory"), ("data", "factory"), ("net", "name"), ("data", "name")):
        place, other = content.get(section), "name" if chosen == "factory" else "factory"
        if f"{section}.{chosen}" in line and isinstance(place, dict) and place.get(other) is not None:
            content[section] = {key: value for key, value in place.items() if key not in (other, "args", *_OF_DATA)}
    if "net.factory" in line:
        scale = [(key, value) for key, value in scale if not key.startswith("net.")]
    if line & {"data.name", "data.factory", "data.root"}:
        sizes: list[Override] = []
        for key, value in scale:
            options = value if key == "data.options" and isinstance(value, dict) else {}
            sizes += [(f"{key}.{size}", options[size]) for size in _SIZES if size in options]
            sizes += [(key, value)] if not key.startswith("data.") or key in _SIZE_KEYS else []
        scale = sizes
    return scale
