"""Strict parsing of JSON, and the check that protects JSON written by irepdeploy against damage.

The check is a separate field with the beginning of the SHA-256 of the object's canonical JSON; it is needed because a
flipped bit often leaves a valid number. It does not depend on the order of keys or on white space. Files of earlier
versions have no check and are read without it.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from irepdeploy.files import canonical_json, sha256

__all__ = ["JsonError", "parse_json", "sealed", "unsealed"]

_CHECK = "check"
_DIGITS = 16
_MOST_DIGITS = 20
_BEYOND = 1 << 64


class JsonError(ValueError):
    """Text is not JSON, is ambiguous, or does not match its check; the message is meant for users."""


def parse_json(content: bytes) -> Any:
    """Parse JSON in UTF-8.

    Raises:
        JsonError: The text is not JSON, or contains a repeated key, NaN, infinity or a number beyond 64 bits.
    """
    try:
        return json.loads(
            content.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
        )
    except JsonError:
        raise
    except UnicodeDecodeError:
        raise JsonError("not JSON: not UTF-8") from None
    except (ValueError, RecursionError):
        raise JsonError("not JSON") from None


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the object with its check."""
    return {**value, _CHECK: _check_of(json.loads(json.dumps(value, allow_nan=False)))}


def unsealed(value: Any, known: Collection[str] | None = None) -> Any:
    """Verify the check of parsed JSON and return the value without it.

    Args:
        value: The JSON value.
        known: Fields of earlier versions, whose files have no check. In an object without a check, any other field
            counts as damage, since it may be a damaged check. By default all fields are accepted.

    Raises:
        JsonError: The value was changed after it was written.
    """
    if not isinstance(value, dict):
        return value
    if _CHECK not in value:
        for name in value:
            if known is not None and name not in known:
                raise JsonError(f"unknown field {reprlib.repr(name)}, in an object without a check")
        return value
    rest = {name: item for name, item in value.items() if name != _CHECK}
    if value[_CHECK] != _check_of(rest):
        raise JsonError(f'damaged: it does not match its check (if you edited it, remove "{_CHECK}")')
    return rest


def _check_of(value: Any) -> str:
    return sha256(canonical_json(value))[:_DIGITS]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(repeated, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise JsonError(f"key {reprlib.repr(repeated)} occurs twice")
    return found


def _constant(name: str) -> float:
    raise JsonError(f"not JSON: {name}")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonError(f"number too large: {text[:_MOST_DIGITS]}")
    return value


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS + 1 or abs(value := int(text)) >= _BEYOND:
        raise JsonError(f"number too large: {text[:_MOST_DIGITS]}, {len(text)} digits")
    return value
