from __future__ import annotations

import pytest

from irepdeploy.bench.settings import batch_sizes, input_shapes
from irepdeploy.errors import InputError


def test_batch_sizes() -> None:
    assert batch_sizes(None) == ()
    assert batch_sizes("8, 1,64,8") == (1, 8, 64)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", "1;2", "²"])
def test_batch_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--batches"):
        batch_sizes(text)


def test_input_shapes() -> None:
    assert input_shapes(["x=1x3x32x32", "a=b=7"]) == {"x": (1, 3, 32, 32), "a=b": (7,)}


@pytest.mark.parametrize("texts", [["x"], ["x="], ["=1x3"], ["x=1x0"], ["x=1,3"], ["x=1xa"], ["x=1", "x=2"]])
def test_input_shapes_that_are_none(texts: list[str]) -> None:
    with pytest.raises(InputError, match="--shape"):
        input_shapes(texts)
