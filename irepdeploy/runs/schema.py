"""Base classes and types for the schemas of a run's files."""

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
# A number that counts from 1, such as devices or epochs.
Number = Annotated[int, Field(ge=1, lt=2**31, strict=True)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$", strict=True)]
# An accuracy, or another share of a whole.
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
# Any finite number, because a diverging run also writes its loss.
Loss = Annotated[float, Field(allow_inf_nan=False, strict=True)]
# A score by a metric, which may be any finite number.
Score = Annotated[float, Field(allow_inf_nan=False, strict=True)]
# A number of seconds, or of images per second.
Amount = Annotated[float, Field(ge=0, le=1e12, strict=True)]


class Schema(BaseModel):
    """A part of a file. Unknown fields are ignored, because a newer version may have written them."""

    model_config = ConfigDict(frozen=True)


class MetricFacts(Schema):
    """The name and unit of a metric. If the unit is "%", scores are shares in [0, 1]."""

    name: StrictStr
    unit: StrictStr = ""

    @property
    def scale(self) -> float:
        """The factor by which scores are multiplied before showing them with the unit: 100 for shares, else 1."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def marked(self) -> str:
        """The unit in parentheses, to append to the name, such as " (%)"; "" if there is no unit."""
        return f" ({self.unit})" if self.unit else ""

    def text(self, value: float) -> str:
        """Return a score as text, such as 93.80% or 0.8731."""
        return f"{value:.2%}" if self.unit == "%" else f"{value:.4f}"


ACCURACY = MetricFacts(name="accuracy", unit="%")


def check_shares(metric: MetricFacts, scores: Mapping[str, float | None]) -> None:
    """Raise ValueError if the metric is a share and one of the named scores is outside [0, 1]."""
    for name, value in scores.items() if metric.unit == "%" else ():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a share from 0 to 1, got {value}")


class Scored(Schema):
    """A schema with scores, which are the fields named in `scores`.

    `metric` is their metric; None means accuracy, as in files of earlier versions.
    """

    scores: ClassVar[tuple[str, ...]] = ()
    # Fields missing in files of earlier versions; they are omitted when empty.
    added: ClassVar[tuple[str, ...]] = ("metric",)
    metric: MetricFacts | None = None

    @property
    def by(self) -> MetricFacts:
        """The metric; accuracy by default."""
        return self.metric or ACCURACY

    @model_validator(mode="after")
    def _are_shares(self) -> Self:
        check_shares(self.by, {name: getattr(self, name) for name in self.scores})
        return self

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: item for key, item in handler(self).items() if item or key not in self.added}


class JsonFile(Schema):
    """A whole JSON file, which includes a check against damage. Only this class reads and writes such files."""

    kind: ClassVar[str]
    hint: ClassVar[str]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file.

        Raises:
            InputError: The file is missing, is not of this kind, or was changed after it was written.
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
        """Return the content of the file as a JSON object, without the check."""
        return self.model_dump(mode="json")
