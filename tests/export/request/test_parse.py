"""Parse the options of an export."""

from __future__ import annotations

import pytest

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.export.request.parse import batch_range, input_spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1x3x224x224", TensorSpec("input", (1, 3, 224, 224))),
        ("image:1x3x32x32", TensorSpec("image", (1, 3, 32, 32))),
        ("tokens:2x77:int64", TensorSpec("tokens", (2, 77), "int64")),
        ("net:image:1x3", TensorSpec("net:image", (1, 3))),
        ("int64:4", TensorSpec("int64", (4,))),
    ],
)
def test_inputs(text: str, spec: TensorSpec) -> None:
    assert input_spec(text) == spec


@pytest.mark.parametrize("text", ["", "image", "image:", ":1x3", "image:1x", "image:0x3", "image:-1x3", "image:1,3"])
def test_not_an_input(text: str) -> None:
    with pytest.raises(InputError, match="--input-shape"):
        input_spec(text)


def test_batches() -> None:
    assert batch_range("1:8:32") == (1, 8, 32) and batch_range("4") == (4, 4, 4)


@pytest.mark.parametrize("text", ["", "1:2", "2:1:3", "0:1:2", "1:2:3:4", "a:b:c", "1:2:", "-1:2:3"])
def test_not_a_range(text: str) -> None:
    with pytest.raises(InputError, match="MIN:OPT:MAX"):
        batch_range(text)
