"""The one registry of data sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from irepdeploy.data.dataset import Dataset
from irepdeploy.data.digits import digits
from irepdeploy.errors import InputError

__all__ = ["DATASETS", "load_dataset"]

DATASETS: dict[str, Callable[..., Dataset]] = {"digits": digits}


def load_dataset(name: str, /, **options: Any) -> Dataset:
    """Load a data set of the registry.

    Raises:
        InputError: no such data set or option, or its files are not right.
    """
    if name not in DATASETS:
        raise InputError(f"no data set named {name!r}", hint=f"one of {', '.join(DATASETS)}")
    try:
        inspect.signature(DATASETS[name]).bind(**options)
    except TypeError as error:
        raise InputError(str(error), where=f"data set {name}") from None
    return DATASETS[name](**options)
