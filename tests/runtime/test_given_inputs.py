"""Inputs as Python code gives them: alone, in order, and by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import irepdeploy
from irepdeploy.errors import InputError, ModelError
from irepdeploy.runtime.given_inputs import forward_order, given_arrays, given_tensors
from irepdeploy.verify.equivalence import verify_models
from irepdeploy.verify.inputs import gather_inputs, signature_of


class Weighted(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        return x if mask is None else x - 2 * mask


X, MASK = torch.ones(2, 4), torch.full((2, 4), 3.0)


@pytest.mark.parametrize(
    "given",
    [(X, MASK), [X, MASK.numpy()], {"x": X, "mask": MASK}, {"mask": MASK.numpy(), "x": X}],
    ids=["tuple", "list", "names", "swapped"],
)
def test_tensors_are_in_the_order_of_forward(given: Any) -> None:
    found = given_tensors(Weighted(), given)
    assert [tensor[0, 0].item() for tensor in found] == [1, 3]
    assert irepdeploy.compare(Weighted().eval(), Weighted().eval(), given).max_rel_error == 0


def test_names_of_something_else_keep_their_order() -> None:
    assert forward_order(Weighted(), ["image", "mask"]) == ["image", "mask"]
    assert forward_order(Weighted(), ["one", "two"]) == ["one", "two"]
    with pytest.raises(InputError, match=r"'mask' is parameter 2 of forward\(x, mask, scale\), but input 1 \(use"):
        forward_order(Weighted(), ["mask", "other"])
    with pytest.raises(InputError, match=r"expected inputs x, mask, got x, scale.*give mask too"):
        forward_order(Weighted(), ["scale", "x"])


def test_arrays() -> None:
    names = given_arrays({"x": X, "rate": np.float64(2)}, single=True)
    assert isinstance(names, dict) and [array.shape for array in names.values()] == [(2, 4), ()]
    assert {array.dtype.name for array in names.values()} == {"float32"}
    pair = given_arrays([X.clone().requires_grad_(), np.ones((2, 5))])
    assert isinstance(pair, tuple) and [array.dtype.name for array in pair] == ["float32", "float64"]
    assert np.array_equal(given_arrays((X,)), np.ones((2, 4)))  # type: ignore[arg-type]
    assert given_arrays([[1.0, 2.0]]).shape == (1, 2)  # type: ignore[union-attr]
    assert given_arrays(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == np.float32  # type: ignore[union-attr]
    assert [array.shape for array in given_arrays((X, 2.0))] == [(2, 4), ()]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (3.0, "float"),
        (["text"], "list"),
        ([X, "text"], "str"),
        ((X, None), "NoneType"),
        ((X, [[1], [1, 2]]), "list: "),
        (object(), "object"),
        ({}, "none"),
        ([], r"no values: shape \(0,\)"),
        ({"x": X[:0]}, r"no values: shape \(0, 4\)"),
        (X.to(torch.complex64), r"complex64 of shape \(2, 4\)"),
        (X.to_sparse(), "Tensor: "),
        (X.to("meta"), "Tensor: "),
    ],
)
def test_what_is_not_an_array(wrong: Any, got: str) -> None:
    with pytest.raises(InputError, match=f"expected arrays of integers or floats with a batch dimension, got {got}"):
        given_arrays(wrong)


def test_arrays_that_torch_cannot_wrap() -> None:
    numbers = np.arange(8.0, dtype=np.float32).reshape(2, 4)
    for given in (numbers[:, ::-1], numbers[:, ::-1].astype(">f4")):
        (tensor,) = given_tensors(nn.Identity(), given)
        assert tensor.tolist() == numbers[:, ::-1].tolist()
        assert given_arrays(given).dtype == np.float32  # type: ignore[union-attr]
    with pytest.raises(InputError, match="expected numbers, got an array of <U1"):
        given_tensors(nn.Identity(), np.array(["a"]))


class Keyword(nn.Module):
    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:
        return x - mask


@pytest.mark.parametrize(
    ("network", "given", "reason"),
    [
        (Weighted(), (X,) * 4, r"forward\(x, mask, scale\) cannot be called with 4 inputs by position: too many"),
        (nn.Bilinear(4, 4, 1), X, r"forward\(input1, input2\) cannot be called with 1 input by position: missing"),
        (Keyword(), X, r"forward\(x, mask\) cannot be called with 1 input by position: missing"),
    ],
)
def test_the_number_of_inputs(network: nn.Module, given: Any, reason: str, tmp_path: Path) -> None:
    for use in (
        lambda: irepdeploy.save(network, tmp_path / "net.pt", inputs=given),
        lambda: given_tensors(network, given),
    ):
        with pytest.raises(InputError, match=reason):
            use()
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_run_on_its_inputs() -> None:
    with pytest.raises(ModelError, match=r"^Linear: the network cannot run on this input: mat1 and mat2"):
        irepdeploy.compare(nn.Linear(3, 1).eval(), nn.Linear(3, 1).eval(), X)


@pytest.mark.parametrize("how", ["inputs", "input_shape"])
def test_a_network_gets_names_in_the_order_of_forward(how: str) -> None:
    network = nn.Bilinear(4, 5, 1).eval()
    given = {"input2": (2, 5), "input1": (2, 4)}
    swapped = {name: torch.ones(shape) for name, shape in given.items()} if how == "inputs" else given
    assert verify_models(network, network, **{how: swapped}).ok


def test_several_arrays_of_one_input_are_its_samples() -> None:
    one, two = (np.full((3, 8, 8), value, np.float32) for value in (1, 2))
    *_, group = gather_inputs(signature_of((3, 8, 8)), given=(one, two))
    assert np.array_equal(group.array, np.stack([one, two]))
    with pytest.raises(InputError, match=r"expected 1 array \(input\), got 2"):
        gather_inputs(signature_of((3, 8, 8)), given=(one, two[:, :4]))
