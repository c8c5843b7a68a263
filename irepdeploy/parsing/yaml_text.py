"""Strict parsing of YAML, without repeated keys and without the surprising conversions of YAML 1.1.

Plain values follow YAML 1.2: ``no``, ``12:30``, ``2026-01-02`` and ``010`` are text, and ``1e-4`` is a number.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

import yaml

__all__ = ["YamlError", "parse_yaml"]

_MOST_VALUES = 10_000
# A recipe has a few kB, and PyYAML takes seconds for a megabyte.
_MOST_BYTES = 1 << 18
# PyYAML takes seconds for thousands of open brackets.
_DEEPEST = 100
_PREFIX = "tag:yaml.org,2002:"
_KINDS = {f"{_PREFIX}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_PLAIN = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}


class YamlError(ValueError):
    """Text is not YAML, or is ambiguous.

    Args:
        what: Description of the fault.
        line: Line of the fault, counted from 1, or None if it has no place.
    """

    def __init__(self, what: str, line: int | None = None) -> None:
        super().__init__(what)
        self.line = line


class _Loader(yaml.SafeLoader):
    """A loader with the plain values of YAML 1.2, whose table replaces that of YAML 1.1."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the base class declares it


for _kind, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(f"{_PREFIX}{_kind}", re.compile(rf"(?:{_pattern})\Z"), _first)


def parse_yaml(content: str | bytes) -> Any:
    """Parse one YAML document in UTF-8.

    Raises:
        YamlError: The content is not YAML, a key occurs twice or is not text, a value is not of a JSON type, a text
            contains control characters, or the content is too large, possibly because of aliases.
    """
    if len(content) > _MOST_BYTES:
        raise YamlError(f"expected at most {_MOST_BYTES >> 10} KiB, got {len(content) >> 10} KiB")
    try:
        text = content.decode() if isinstance(content, bytes) else content
        _check_depth(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}) > _MOST_VALUES:
                raise YamlError(f"its aliases expand to more than {_MOST_VALUES} values")
            _check(node, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise YamlError(f"not YAML: {problem}", None if mark is None else mark.line + 1) from None
    except UnicodeDecodeError:
        raise YamlError("not YAML: not UTF-8") from None
    except YamlError:
        raise
    except RecursionError:
        raise YamlError(_TOO_DEEP) from None
    except (ValueError, LookupError, AttributeError) as error:
        # PyYAML raises these for values that it cannot read.
        raise YamlError(f"not YAML: {error}") from None


_TOO_DEEP = f"nested too deeply: a recipe has at most {_DEEPEST} levels"


def _check_depth(text: str) -> None:
    """Check the nesting of brackets; those inside of texts are counted too, since they are usually closed there."""
    depth = 0
    for line, each in enumerate(text.split("\n"), 1):
        for sign in re.findall(r"[\[\]{}]", each):
            depth = depth + 1 if sign in "[{" else max(depth - 1, 0)
            if depth > _DEEPEST:
                raise YamlError(_TOO_DEEP, line)


def _size(node: Any, known: dict[int, float]) -> float:
    """Return the number of values in `node` with every alias expanded, or infinity if an alias contains itself."""
    if id(node) not in known:
        known[id(node)] = math.inf
        known[id(node)] = 1 + sum(_size(item, known) for item in _inner(node))
    return known[id(node)]


def _inner(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [item for _, item in node.value]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check(node: Any, seen: set[int]) -> None:
    """Check a node and all nodes in it, each only once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if node.tag not in _KINDS:
        raise YamlError(f"tag {node.tag.removeprefix(_PREFIX)!r} is not allowed in a recipe", _line(node))
    if isinstance(node, yaml.ScalarNode):
        _check_text(node)
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, seen)
    for inner in _inner(node):
        _check(inner, seen)


def _check_keys(node: yaml.MappingNode, seen: set[int]) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag not in (f"{_PREFIX}str", f"{_PREFIX}merge"):
            shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
            raise YamlError(f"expected a key that is text, got {shown} (put it in quotes if it is meant)", _line(key))
        _check(key, seen)
        if key.value in lines:
            raise YamlError(f"key {key.value!r} occurs twice: on lines {lines[key.value]} and {_line(key)}", _line(key))
        lines[key.value] = _line(key)


def _check_text(node: yaml.ScalarNode) -> None:
    bad = next((each for each in node.value if unicodedata.category(each) in ("Cc", "Cs") and each not in "\t\n"), None)
    if bad is not None:
        raise YamlError(f"text contains the control character U+{ord(bad):04X}", _line(node))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
