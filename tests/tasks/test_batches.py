"""Batches in the forms of loaders, and outputs in the forms of networks."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch

from irepdeploy.data.nested import mapped
from irepdeploy.errors import InputError
from irepdeploy.tasks import Classification
from irepdeploy.tasks.batches import wide

X, Y = torch.rand(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize(
    "batch", [(X, Y), [X, Y], {"image": X, "label": Y, "file": ["a", "b"]}, {"pixel_values": X, "labels": Y}]
)
def test_pairs_and_dictionaries_are_read(batch: Any) -> None:
    inputs, targets = Classification().read(batch)
    assert inputs is X and targets is Y


def test_a_tensor_is_its_own_target() -> None:
    assert Classification().read(X) == (X, X)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((X, Y, Y), "got tuple of 3"),
        ({"image": X}, "as the targets of a batch, got image"),
        ({"image": X, "input": X, "label": Y}, "as the inputs of a batch"),
        ({}, "got nothing"),
        ("text", "got str"),
        (None, "got NoneType"),
    ],
)
def test_other_batches_are_refused(batch: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Classification().read(batch)
    assert "override read(batch)" in caught.value.line


@pytest.mark.parametrize("raw", [X, OrderedDict(out=X, aux=Y), {"logits": X, "loss": Y}, {"only": X}, (X,)])
def test_the_output_of_a_network(raw: Any) -> None:
    assert Classification().outputs(raw) is X


@pytest.mark.parametrize("raw", [(X, Y), {"a": X, "b": Y}, None])
def test_several_outputs_need_a_task_that_chooses(raw: Any) -> None:
    with pytest.raises(InputError, match=r"override outputs\(raw\)"):
        Classification().outputs(raw)


def test_tensors_inside_containers() -> None:
    half = {"a": [X.half(), 3], "b": (Y, X.double())}
    found = wide(half)
    assert found["a"][0].dtype == torch.float32 and found["a"][1] == 3
    assert found["b"][0] is Y and found["b"][1].dtype == torch.float64
    assert mapped(lambda t: t[:1], [X])[0].shape == (1, 3)
