"""Inputs of latency measurements."""

from __future__ import annotations

import numpy as np
import pytest

from irepdeploy.board.feeds import check_finite, random_feeds
from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import ModelError


def test_the_same_for_all_that_take_the_same() -> None:
    a = random_feeds([TensorSpec("x", (1, 3, 4, 4)), TensorSpec("y", (1, 2), "float16")], 7, "a")
    b = random_feeds([TensorSpec("in", (1, 3, 4, 4)), TensorSpec("more", (1, 2))], 7, "b")
    assert np.array_equal(a["x"], b["in"]) and a["y"].dtype == np.float16
    assert np.array_equal(a["y"], b["more"].astype(np.float16))
    assert not np.array_equal(a["x"], random_feeds([TensorSpec("x", (1, 3, 4, 4))], 8, "a")["x"])


def test_free_dimensions() -> None:
    free = TensorSpec("x", (None, 3, None, 4))
    assert random_feeds([TensorSpec("x", (None, 3))], 0, "m", batch=5)["x"].shape == (5, 3)
    assert random_feeds([free], 0, "m", shapes={"x": [2, 3, 8, 4]})["x"].shape == (2, 3, 8, 4)
    with pytest.raises(ModelError, match=r"m: input 'x' has dynamic dimensions: \?x3x\?x4"):
        random_feeds([free], 0, "m")


def test_whole_numbers_are_within_their_limits() -> None:
    specs = [TensorSpec(name, (1, 99), kind) for name, kind in (("a", "int64"), ("b", "uint8"), ("c", "bool"))]
    found = random_feeds([*specs, TensorSpec("ids", (99,), "int32")], 0, "m", limits={"ids": (3, 6)})
    assert {name: array.dtype.name for name, array in found.items()} == {
        "a": "int64", "b": "uint8", "c": "bool", "ids": "int32",
    }  # fmt: skip
    assert set(found["a"].ravel()) == {0, 1} and found["b"].max() > 200 and set(found["ids"]) == {3, 4, 5, 6}


def test_outputs_that_are_not_finite() -> None:
    check_finite({"y": np.ones(3, np.float32), "ids": np.array([1])}, "m")
    for value, kind in ((np.nan, "NaN"), (np.inf, "infinity")):
        with pytest.raises(ModelError, match=f"m: returns {kind} .output 'y'"):
            check_finite({"y": np.array([1.0, value])}, "m")
