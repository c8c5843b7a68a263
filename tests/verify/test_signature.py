"""The batch dimension of a network is found from the names of dynamic sizes or from two runs, or there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError, ModelError
from irepdeploy.runtime.given_inputs import batch_axis
from irepdeploy.verify.declared import Declared, with_asked
from irepdeploy.verify.samples import Outputs, Samples, batches, fed, one_batch
from irepdeploy.verify.signature import Signature, resolved, settled

Sizes = tuple[int | str | None, ...]


def model(inputs: Mapping[str, Sizes], outputs: Mapping[str, Sizes | None] | None = None, label: str = "m") -> Declared:
    return Declared(label, inputs, dict.fromkeys(inputs, "float32"), outputs or {})


@pytest.mark.parametrize(
    ("inputs", "axes"),
    [
        ({"x": ("n", 3, 8, 8)}, [0]),
        ({"x": (1, 3, 8, 8)}, [0]),
        ({"x": (None, 3, 8, 8)}, [0]),
        ({"x": ("T", "batch", 5)}, [1]),
        ({"x": (None, 512), "state": (2, None, 128), "rate": ()}, [0, 1, None]),
        ({"state": (2, 1, 128), "x": (1, 512)}, [1, 0]),
        ({"x": ("batch_a", 3), "y": (4, "batch_b")}, [0, 1]),
        ({"x": ("n", 3), "table": (16, 5)}, [0, None]),
        ({"x": (1, 80, "T")}, [0]),
        ({"x": (5, 3, 8, 8)}, [0]),
    ],
)
def test_the_axis_of_the_batch_in_inputs(inputs: dict[str, Sizes], axes: list[int | None]) -> None:
    assert list(model(inputs).axes.values()) == axes


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([("x", (2, 3, 16, 20))], [("x", (None, 3, 16, 20)), ("tokens", (7, None), "int64")]),
        ([("tokens", (9, 1))], [("x", (None, 3, 8, 8)), ("tokens", (9, None), "int64")]),
        ([("tokens", (None, None), "int32")], [("x", (None, 3, 8, 8)), ("tokens", (7, None), "int32")]),
        ([("x", (1, 5))], [("x", (None, 5)), ("tokens", (7, None), "int64")]),
        ([("other", (1, 5))], [("other", (None, 5))]),
    ],
)
def test_sizes_asked_for_replace_those_that_a_network_stores(asked: list[Any], found: list[Any]) -> None:
    stored = [TensorSpec("x", (None, 3, 8, 8)), TensorSpec("tokens", (7, None), "int64")]
    declared = Declared.of_specs([TensorSpec(*each) for each in asked])
    assert with_asked(stored, declared) == [TensorSpec(*each) for each in found]
    # Without a name it is the only input, which keeps its own.
    alone = Declared.of_specs([TensorSpec("input", (1, 3, 9, 9))])
    assert with_asked(stored[:1], alone) == [TensorSpec("x", (None, 3, 9, 9))]


def test_networks_without_a_batch() -> None:
    image = resolved([model({"x": (3, 16, 16)}, {"y": (10,)})])
    assert image.inputs[0].axis is None and image.inputs[0].sample == (3, 16, 16) and image.size == 1
    # Three images of one channel come out as three.
    assert resolved([model({"x": (6, 16, 16)}, {"y": (6, 4)})]).inputs[0].axis == 0
    assert resolved([model({"x": (3, 16, 16)}, {"y": (3, 16, 16)})]).inputs[0].axis is None


def test_the_axis_of_the_batch_in_outputs() -> None:
    found = resolved([model({"x": ("n", 1, 8, 20)}, {"y": (20, "n", 5), "z": ("unk", 5), "s": (4,)})])
    # One is named, one has another name, and one is of fixed size; two runs tell of the last two.
    assert found.outputs == {"y": 1}
    assert resolved([model({"x": (1, 1, 8, 20)}, {"y": (20, 1, 5), "s": (4,)})]).outputs == {"y": 1, "s": None}
    assert batch_axis((8, 8, 5), 8) == 0 and batch_axis((4, 8, 8), 8) is None


def run(feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    x = feeds["x"]
    return {"first": x.mean(1), "second": x.T, "all": x.sum(), "boxes": x[np.newaxis, :, :2]}


def test_two_runs_tell_where_the_batch_is() -> None:
    found = settled(Signature.of([TensorSpec("x", (None, 4))]), ["first", "second", "all", "boxes"], run)
    assert found.outputs == {"first": 0, "second": 1, "all": None, "boxes": 1}
    # Inputs without a batch would be mixed by a larger one.
    assert found.size == 1 and not found.is_plain


def test_a_network_that_runs_with_one_size_only() -> None:
    def only_one(feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        if len(feeds["x"]) > 1:
            raise ModelError("reshape")
        return {"y": feeds["x"]}

    found = settled(Signature.of([TensorSpec("x", (None, 4))]), ["y"], only_one)
    assert (found.outputs, found.size) == ({"y": 0}, 1)


def test_sizes_that_are_asked_for_or_given() -> None:
    free = model({"x": ("n", 3, "h", "w")}, {"y": ("n", 4, "p", "q")})
    with pytest.raises(InputError, match=r"m: input 'x' has dynamic dimensions: \?x3x\?x\?") as caught:
        resolved([free])
    assert caught.value.hint == "give --input-shape x:1x3x224x224, or --inputs FILE.npy"
    two = model({"image": ("n", 3, "h", "w"), "tokens": ("n", "t"), "rate": (1,)}, {})
    with pytest.raises(
        InputError, match=r"input 'image' has dynamic .*: \?x3x\?x\?, 'tokens' has .*: \?x\? \("
    ) as caught:
        resolved([two])
    assert caught.value.hint == ("give --input-shape image:1x3x224x224 --input-shape tokens:1x64, or --inputs FILE.npz")
    assert len(resolved([two], [TensorSpec("image", (1, 3, 8, 9)), TensorSpec("tokens", (1, 7))]).inputs) == 3
    found = resolved([free], [TensorSpec("input", (2, 3, 8, 9))])
    assert (found.inputs[0].shape, found.size, found.outputs) == ((None, 3, 8, 9), 2, {"y": 0})
    assert resolved([free], [TensorSpec("x", (None, 3, 8, 9))]).size is None
    for given in ((5, 3, 8, 9), (3, 8, 9), (2, 1, 3, 8, 9)):
        assert resolved([free], given=lambda given=given: {"any": given}).inputs[0].sample == (3, 8, 9)
    for wrong in ("x:1x4x8x9", "y:1x3x8x9", "x:1x3x8", "x:1x3x8x9:int64"):
        from irepdeploy.verify.input_spec import input_spec

        with pytest.raises(InputError, match="--input-shape"):
            resolved([free], [input_spec(wrong)])


def test_forms_of_one_network_share_what_either_knows() -> None:
    free, fixed = model({"x": ("n", 3, "h", 8)}, {"y": (None, "n")}), model({"in": (1, 3, 8, 8)}, {"out": (20, 1)})
    found = resolved([fixed, free])
    assert (found.inputs[0].name, found.inputs[0].shape, found.outputs) == ("in", (None, 3, 8, 8), {"out": 1})
    with pytest.raises(InputError, match=r"different inputs: 1x3x8x8 and 1x3x9x8"):
        resolved([fixed, model({"x": (1, 3, 9, 8)})])
    with pytest.raises(InputError, match=r"takes 2 inputs .*save\(net, path, inputs="):
        resolved([fixed, model({"x": (1, 3, 8, 8), "t": (1, 1)})])
    with pytest.raises(InputError, match="expected one batch size, got 1 and 4"):
        resolved([model({"x": (1, 3), "t": ()}), model({"x": (4, 3), "t": ()})])


def test_samples_are_fed_where_the_batch_is() -> None:
    signature = Signature.of(
        [TensorSpec("x", (None, 3)), TensorSpec("state", (2, None, 4)), TensorSpec("rate", ())], outputs={"y": 1}
    )
    arrays = {"x": np.arange(15.0).reshape(5, 3), "state": np.zeros((5, 2, 4)), "rate": np.full(5, 7.0)}
    samples = Samples(arrays, signature)
    specs = [TensorSpec("x", (2, 3)), TensorSpec("state", (2, 2, 4)), TensorSpec("rate", ())]
    runs = list(batches(samples, specs, 8))
    assert [(size, count) for _, size, count in runs] == [(2, 2), (2, 2), (2, 1)]
    assert {name: array.shape for name, array in runs[0][0].items()} == {"x": (2, 3), "state": (2, 2, 4), "rate": ()}
    # The last sample fills the batch.
    assert np.array_equal(runs[2][0]["x"], arrays["x"][[4, 4]])
    found = Outputs(samples)
    for feeds, size, count in runs:
        found.add({"y": feeds["x"].T}, size, count)
    assert np.array_equal(found.all()["y"], arrays["x"])
    arrays["rate"][1] = 8
    with pytest.raises(InputError, match="rate has no batch, and its values differ"):
        fed(Samples(arrays, signature), 0, 2)
    assert [array.shape for array in one_batch(samples)] == [(1, 3), (2, 1, 4), ()]


def test_outputs_whose_size_depends_on_values_are_one_row() -> None:
    samples = Samples({"x": np.ones((2, 1))}, Signature.of([TensorSpec("x", (None, 1))], outputs={"boxes": None}))
    found = Outputs(samples)
    for count in (2, 3):
        found.add({"boxes": np.full((count, 4), float(count))}, 1, 1)
    assert found.all()["boxes"].shape == (20,)
