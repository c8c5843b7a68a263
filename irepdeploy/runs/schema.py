"""Read and write the files of a run by their schemas."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictStr,
    model_serializer,
    model_validator,
)

from irepdeploy.errors import InputError
from irepdeploy.files import read_bytes, write_json
from irepdeploy.limits import JOURNAL
from irepdeploy.parsing.json_text import JsonError, parse_json, sealed, unsealed
from irepdeploy.parsing.validation import validated

__all__ = [
    "ACCURACY",
    "Amount",
    "Count",
    "Digest",
    "JsonFile",
    "Loss",
    "MetricFacts",
    "Number",
    "Schema",
    "Score",
    "Scored",
    "Share",
    "check_shares",
]

Count = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
# Counted from 1: devices, epochs.
Number = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$", strict=True)]
# An accuracy, or a part of something.
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
# Any number: a diverging run writes how far it got.
Loss = Annotated[float, Field(allow_inf_nan=False, strict=True)]
# By a metric, which may be any number.
Score = Annotated[float, Field(allow_inf_nan=False, strict=True)]
# Of seconds, or of images in one.
Amount = Annotated[float, Field(ge=0, le=1e12, strict=True)]


class Schema(BaseModel):
    """A part of a file. Unknown fields are ignored: a newer version may have written them."""

    model_config = ConfigDict(frozen=True)


class MetricFacts(Schema):
    """Name and unit of a metric; of "%" the scores are shares in [0, 1]."""

    name: StrictStr
    unit: StrictStr = ""

    @property
    def scale(self) -> float:
        """What a score is multiplied by where the unit stands beside it: 100 of a share."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def marked(self) -> str:
        """The unit in brackets, to stand behind the name: " (%)", or nothing."""
        return f" ({self.unit})" if self.unit else ""

    def text(self, value: float) -> str:
        """Return a score as text, such as 93.80% or 0.8731."""
        return f"{value:.2%}" if self.unit == "%" else f"{value:.4f}"


ACCURACY = MetricFacts(name="accuracy", unit="%")


def check_shares(metric: MetricFacts, scores: Mapping[str, float | None]) -> None:
    """Raise ValueError for a score by name that is outside [0, 1] although the metric is one of shares."""
    for name, value in scores.items() if metric.unit == "%" else ():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a share from 0 to 1, got {value}")


class Scored(Schema):
    """Holds scores, the fields that `scores` names, by a metric; None: accuracy, as in files of earlier versions."""

    scores: ClassVar[tuple[str, ...]] = ()
    # Fields that files of earlier versions lack.
    added: ClassVar[tuple[str, ...]] = ("metric",)
    metric: MetricFacts | None = None

    @property
    def by(self) -> MetricFacts:
        """The metric: accuracy where the file names none."""
        return self.metric or ACCURACY

    @model_validator(mode="after")
    def _are_shares(self) -> Self:
        check_shares(self.by, {name: getattr(self, name) for name in self.scores})
        return self

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: item for key, item in handler(self).items() if item or key not in self.added}


class JsonFile(Schema):
    """A whole JSON file, which this class alone reads and writes; it carries a check against damage."""

    kind: ClassVar[str]
    hint: ClassVar[str]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file.

        Raises:
            InputError: It is missing, is not of this kind, or has changed since it was written.
        """
        content = read_bytes(path, cls.kind, JOURNAL)
        try:
            value = unsealed(parse_json(content), cls.model_fields)
        except JsonError as error:
            raise InputError(f"not the {cls.kind}: {error}", where=path, hint=cls.hint) from None
        return validated(cls, value, f"the {cls.kind}", where=path, hint=cls.hint)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the file atomically and return its path."""
        return write_json(path, sealed(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """Return the file's JSON object, without its check."""
        return self.model_dump(mode="json")
