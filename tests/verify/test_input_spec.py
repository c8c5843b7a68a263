"""Input specifications: their text on the command line, whether they are images, and their random values."""

from __future__ import annotations

import numpy as np
import pytest

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.verify.input_spec import InputSpec, input_spec, input_specs, spec_text


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1x3x224x224", TensorSpec("input", (1, 3, 224, 224))),
        ("image:1x3x32x32", TensorSpec("image", (1, 3, 32, 32))),
        ("tokens:2x77:int64", TensorSpec("tokens", (2, 77), "int64")),
        ("net:image:1x3", TensorSpec("net:image", (1, 3))),
        ("int64:4", TensorSpec("int64", (4,))),
        ("a=b=2x7", TensorSpec("a=b", (2, 7))),
        ("x=1x3:uint8", TensorSpec("x", (1, 3), "uint8")),
        ("?x3x?x?", TensorSpec("input", (None, 3, None, None))),
        ("rate:scalar:int64", TensorSpec("rate", (), "int64")),
    ],
)
def test_inputs(text: str, spec: TensorSpec) -> None:
    assert input_spec(text) == input_spec(spec_text(spec)) == spec


@pytest.mark.parametrize(
    "text",
    ["", "image", "image:", ":1x3", "image:1x", "image:0x3", "image:-1x3", "image:1,3", "=1x3", "x=1x\u00b2", "x=??"],
)
def test_not_an_input(text: str) -> None:
    with pytest.raises(InputError, match="--input-shape"):
        input_spec(text)


def test_several_shapes() -> None:
    assert [spec.name for spec in input_specs(["a:1x3", "b=2"])] == ["a", "b"]
    with pytest.raises(InputError, match="several inputs of the same name: a, a"):
        input_specs(["a:1x3", "a:1x4"])


@pytest.mark.parametrize(
    ("sample", "layout"),
    [
        ((3, 8, 4), "chw"),
        ((1, 48, 320), "chw"),
        ((1, 80, 3000), None),
        ((32, 32, 3), "hwc"),
        ((28, 28, 1), "hwc"),
        ((76, 32, 1), None),
        ((4, 32, 32), None),
        ((64, 8, 8), None),
        ((16, 96), None),
    ],
)
def test_images_are_told_from_feature_maps_and_spectrograms(sample: tuple[int, ...], layout: str | None) -> None:
    assert InputSpec("x", (None, *sample)).layout == layout
    assert InputSpec("x", (None, *sample), "int64").layout is None


def test_random_values_by_type_and_limits() -> None:
    def drawn(dtype: str, limits: tuple[int, int] | None = None) -> np.ndarray:
        return InputSpec("x", (2, None, 50), dtype, limits).random(4, seed=0)

    assert drawn("float16").dtype == np.float16 and drawn("float16").shape == (4, 2, 50)
    assert set(np.unique(drawn("bool"))) == {False, True} and set(np.unique(drawn("int64"))) == {0, 1}
    assert drawn("uint8").max() > 200
    assert (drawn("int32", (5, 9)).min(), drawn("int32", (5, 9)).max()) == (5, 9)
    assert InputSpec("ids", (None, 4), "int64", (0, 99)).values == "ids 0 to 99"
    assert InputSpec("rate", (), "int64", (16000, 16000)).values == "rate 16000"
    assert not np.array_equal(InputSpec("x", (None, 4)).random(1, 0, 1), InputSpec("x", (None, 4)).random(1, 0, 2))
