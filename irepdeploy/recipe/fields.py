"""Types of the values in a recipe, with their limits."""

from __future__ import annotations

import math
import re
import reprlib
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

__all__ = [
    "BatchSize", "Budget", "Count", "Decay", "NonNegative", "Options", "Positive", "Probability", "Rate", "Seed",
    "Threads",
]  # fmt: skip


def _budget(value: str) -> str:
    number, per_block, rest = value.partition("/block")
    if per_block:
        if rest or not re.fullmatch("0*[1-9][0-9]{0,5}", number):
            raise ValueError(f"{reprlib.repr(value)} is not a number of branches per block such as 4/block")
        return value
    # Fraction would compute the power of ten of 1e-999999999.
    if not re.fullmatch("-?([0-9]{1,9}/0*[1-9][0-9]{0,8}|[0-9]{0,9}[.]?[0-9]{1,18})", value):
        raise ValueError(
            f"{reprlib.repr(value)} is neither a fraction such as 2/3 nor a number per block such as 4/block"
        )
    if not 0 < Fraction(value) <= 1:
        raise ValueError(f"expected a share of the possible branches above 0 and at most 1, got {value}")
    return value


def _plain(value: Any) -> Any:
    """Raise ValueError for values that JSON, and therefore a journal, cannot represent."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _plain(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected finite numbers, got {value}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("expected numbers of at most 64 bits")
    return value


# Integers are strict; floats are not, so that 1 is accepted as a float. The upper limits are beyond any practical use.
Positive = Annotated[int, Field(gt=0, le=1_000_000, strict=True)]
Count = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
# Batch statistics need at least two images.
BatchSize = Annotated[int, Field(ge=2, le=1_000_000, strict=True)]
Options = Annotated[dict[str, Any], AfterValidator(_plain)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Threads = Annotated[int, Field(gt=0, le=1024, strict=True)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
# Slightly below the largest float32.
_LARGEST = 1e38
NonNegative = Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=_LARGEST, allow_inf_nan=False)]
Budget = Annotated[str, BeforeValidator(lambda value: str(value)), AfterValidator(_budget)]
