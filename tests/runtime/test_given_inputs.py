"""Inputs as Python code gives them: alone, in order, and by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import irepdeploy
from irepdeploy.errors import InputError
from irepdeploy.runtime.given_inputs import forward_order, given_arrays, given_tensors
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
    assert forward_order(Weighted(), ["mask", "other"]) == ["mask", "other"]
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
    for wrong in (3.0, ["text"], [X, "text"], (X, [[1], [1, 2]]), object()):
        with pytest.raises(InputError, match="expected arrays with a batch dimension"):
            given_arrays(wrong)


def test_several_arrays_of_one_input_are_its_samples() -> None:
    one, two = (np.full((3, 8, 8), value, np.float32) for value in (1, 2))
    *_, group = gather_inputs(signature_of((3, 8, 8)), given=(one, two))
    assert np.array_equal(group.array, np.stack([one, two]))
    with pytest.raises(InputError, match=r"expected 1 array \(input\), got 2"):
        gather_inputs(signature_of((3, 8, 8)), given=(one, two[:, :4]))
