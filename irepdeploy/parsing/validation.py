"""Validate values against a schema, and describe the faults found by pydantic briefly."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from irepdeploy.errors import InputError

__all__ = ["faults_of", "validated"]

_T = TypeVar("_T")

_MOST_FAULTS = 3
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def validated(kind: type[_T], value: object, what: str, *, where: object, hint: str | None = None) -> _T:
    """Convert parsed JSON to an instance of a pydantic model or dataclass.

    Args:
        kind: The class.
        value: The parsed JSON.
        what: Name of the object in the error, with an article.
        where: The file or place that the error names.
        hint: The fix that the error suggests.

    Raises:
        InputError: The value does not fit the class.
    """
    try:
        found: _T = _adapter(kind).validate_python(value)
    except ValidationError as error:
        faults = faults_of(error)
        more = len(faults) - _MOST_FAULTS
        text = "; ".join(faults[:_MOST_FAULTS]) + (f"; and {more} more" if more > 0 else "")
        raise InputError(f"not {what}: {text}", where=where, hint=hint) from None
    except UnicodeEncodeError:
        # pydantic cannot describe the fault of a value with a lone surrogate.
        raise InputError(f"not {what}: it contains text that is not Unicode", where=where, hint=hint) from None
    return found


def faults_of(error: ValidationError, known: Sequence[str] = (), *, values_only: bool = False) -> list[str]:
    """Describe each fault as ``key: expected X, got Y``.

    Args:
        error: The faults.
        known: Dotted keys to suggest for an unknown key.
        values_only: Include only faults of single values, without missing keys and inconsistent values.
    """
    return [
        _fault(each, known)
        for each in error.errors(include_url=False)
        if not values_only or (each["loc"] and each["type"] != "missing")
    ]


def _fault(fault: Any, known: Sequence[str]) -> str:
    field = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"{field} is missing"
    if fault["type"] == "extra_forbidden":
        return f"{field}: unknown key{_meant(field, known)}"
    if fault["type"] == "value_error":
        text = re.sub("^Value error, ", "", fault["msg"])
    else:
        expected = re.sub("^Input should (be |have )?| or instance of \\w+", "", fault["msg"])
        text = f"expected {expected}, got {_shown(fault['input'])}"
    return f"{field}: {text}" if field else text


def _meant(field: str, known: Sequence[str]) -> str:
    """Return a suggestion of known keys in the same section for an unknown key, first those that end in its name."""
    section, _, name = field.rpartition(".")
    inside = [key.removeprefix(f"{section}.") for key in known if key.startswith(f"{section}.")] if section else known
    near = [key for key in inside if key.endswith(f".{name}")]
    near = near or [key.rsplit(".", 1)[-1] for key in difflib.get_close_matches(field, known, n=1, cutoff=0.7)]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to print integers of several thousand digits
        return "a number of thousands of digits"


def _adapter(kind: type[_T]) -> TypeAdapter[_T]:
    # Adapters are cached because creating one takes longer than using it.
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
