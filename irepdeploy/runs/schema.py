"""Read and write the files of a run by their schemas, and describe mismatches in a single line."""

from __future__ import annotations

import json
import os
import re
import reprlib
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from irepdeploy.errors import InputError
from irepdeploy.files import read_bytes, write_json
from irepdeploy.limits import JOURNAL

__all__ = ["JsonFile", "Schema", "validated"]

_T = TypeVar("_T")

_MOST_FAULTS = 3


class Schema(BaseModel):
    """A part of a file. Unknown fields are ignored: a newer version may have written them."""

    model_config = ConfigDict(frozen=True)


class JsonFile(Schema):
    """A whole JSON file, which this class alone reads and writes."""

    kind: ClassVar[str]
    hint: ClassVar[str]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file."""
        content = read_bytes(path, cls.kind, JOURNAL)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            raise InputError(f"not the {cls.kind}: expected JSON", where=path, hint=cls.hint) from None
        return validated(cls, value, f"the {cls.kind}", where=path, hint=cls.hint)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the file atomically and return its path."""
        return write_json(path, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the file's JSON object."""
        return self.model_dump(mode="json")


def validated(kind: type[_T], value: object, what: str, *, where: object, hint: str | None = None) -> _T:
    """Return `value`, parsed JSON, as an instance of the pydantic model or dataclass `kind`.

    `what` is its name in the error, with an article.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise InputError(f"not {what}: {_faults(error)}", where=where, hint=hint) from None


def _faults(error: ValidationError) -> str:
    faults = [_fault(each) for each in error.errors(include_url=False)]
    more = len(faults) - _MOST_FAULTS
    return "; ".join(faults[:_MOST_FAULTS]) + (f"; and {more} more" if more > 0 else "")


def _fault(fault: Any) -> str:
    field = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"{field} is missing"
    if fault["type"] == "value_error":
        text = re.sub("^Value error, ", "", fault["msg"])
    else:
        expected = re.sub("^Input should (be |have )?", "", fault["msg"])
        text = f"expected {expected}, got {reprlib.repr(fault['input'])}"
    return f"{field}: {text}" if field else text
