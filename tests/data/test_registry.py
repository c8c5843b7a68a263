from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from irepdeploy.data import DATASETS, Dataset, load_dataset, real_inputs
from irepdeploy.data.photographs import photographs
from irepdeploy.errors import InputError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_digits_are_real_and_whole(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    everything = load_dataset("digits", train=800, val=400)
    parts = [everything.train, everything.val, everything.load_test()]
    assert [len(part) for part in parts] == [800, 400, 597]
    # Every scan is in exactly one part, with its own label.
    raw = load_digits()
    images = torch.cat([part.images for part in parts])
    labels = torch.cat([part.labels for part in parts])
    assert sorted(np.bincount(labels)) == sorted(np.bincount(raw.target))
    means = images.mean((1, 2, 3)) * digits.std[0] + digits.mean[0]
    expected = torch.from_numpy(raw.images).float().mean((1, 2)) / 16
    assert torch.allclose(means.sort().values, expected.sort().values, atol=1e-5)


@pytest.mark.parametrize(("train", "val"), [(150, 400), (800, 400), (2, 1), (1199, 1)])
def test_the_three_parts_are_disjoint_and_test_is_fixed(train: int, val: int, digits: Dataset) -> None:
    data = load_dataset("digits", train=train, val=val)
    assert (len(data.train), len(data.val)) == (train, val)
    parts = [rows(data.train.images), rows(data.val.images), rows(data.load_test().images)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert torch.equal(data.load_test().images, digits.load_test().images)


def test_shape_and_scale(digits: Dataset) -> None:
    assert digits.train.images.shape == (150, *digits.input_shape) == (150, 1, 16, 16)
    assert digits.train.images.dtype == torch.float32
    assert digits.train.labels.dtype == torch.int64
    assert len(digits.classes) == 10
    assert set(digits.train.labels.tolist()) == set(range(10))
    assert abs(float(digits.val.images.mean())) < 0.1
    assert 0.8 < float(digits.val.images.std()) < 1.2


def test_the_split_does_not_depend_on_the_global_generator(digits: Dataset) -> None:
    torch.manual_seed(123)
    again = load_dataset("digits")
    assert torch.equal(again.train.images, digits.train.images)
    assert torch.equal(again.val.labels, digits.val.labels)


def test_the_test_set_is_not_made_before_it_is_asked_for(digits: Dataset) -> None:
    assert callable(digits.load_test)
    assert not hasattr(digits, "test")


@pytest.mark.parametrize(
    "options",
    [
        {"train": 0},
        {"train": 1},
        {"val": 0},
        {"train": -5},
        {"train": 801, "val": 400},
        {"train": 1.5},
        {"train": "150"},
        {"train": float("nan")},
        {"val": None},
        {"train": True},
        {"val": [1]},
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="do not fit"):
        load_dataset("digits", **options)


@pytest.mark.parametrize("options", [{"colour": 1}, {"name": "digits"}, {"self": 1}])
def test_options_that_a_data_set_does_not_have(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        load_dataset("digits", **options)


def test_a_data_set_that_is_not_there() -> None:
    with pytest.raises(InputError, match=f"no data set named 'mnist'.*{', '.join(DATASETS)}"):
        load_dataset("mnist")


def test_real_inputs_are_of_the_search_validation_set(digits: Dataset) -> None:
    found, source = real_inputs((1, 16, 16), 8, "digits")
    assert source == "data set digits"
    assert np.array_equal(found, digits.val.images[:8].numpy())
    assert not rows(torch.from_numpy(found)) & rows(digits.load_test().images)


@pytest.mark.parametrize(("shape", "dataset"), [((3, 32, 24), None), ((1, 20, 20), "digits")])
def test_real_inputs_of_another_shape_are_photographs(shape: tuple[int, int, int], dataset: str | None) -> None:
    found, source = real_inputs(shape, 5, dataset)
    assert "photographs" in source
    assert found.shape == (5, *shape)
    assert found.dtype == np.float32
    assert len({crop.tobytes() for crop in found}) == 5
    assert found.min() >= -0.45 / 0.25 - 1e-5
    assert found.max() <= 0.55 / 0.25 + 1e-5


def test_photographs_are_seeded() -> None:
    assert np.array_equal(photographs((3, 8, 8), 3), photographs((3, 8, 8), 3))
    assert not np.array_equal(photographs((3, 8, 8), 3), photographs((3, 8, 8), 3, seed=1))


@pytest.mark.parametrize("shape", [(2, 8, 8), (4, 8, 8), (10,), (3, 8), ()])
def test_photographs_have_one_or_three_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"1 or 3 channels.*--inputs"):
        photographs(shape, 1)
