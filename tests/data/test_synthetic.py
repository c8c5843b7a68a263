"""The generated data set, and facts about data sets that are known without their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from irepdeploy.data import DATASETS, dataset_facts, embedded_dataset, fashion_mnist, load_dataset, real_inputs
from irepdeploy.errors import InputError, MissingError


def test_sizes_shape_and_classes() -> None:
    data = load_dataset("synthetic", shape=[1, 12, 20], classes=4, train=30, val=8, test=6)
    assert data.input_shape == (1, 12, 20) and data.classes == ("0", "1", "2", "3")
    assert len(data.mean) == len(data.std) == 1
    for split, count in ((data.train, 30), (data.val, 8), (data.load_test(), 6)):
        assert split.images[:].shape == (count, 1, 12, 20) and len(split) == count
        assert set(split.labels.tolist()) == set(range(4))
    assert abs(float(data.train.images[:].mean())) < 0.5
    assert 0.5 < float(data.train.images[:].std()) < 2


def test_it_is_seeded_and_its_parts_differ() -> None:
    data, again = load_dataset("synthetic", train=50, val=20), load_dataset("synthetic", train=50, val=20)
    torch.manual_seed(1)
    assert torch.equal(data.train.images[:], again.train.images[:])
    assert torch.equal(data.load_test().images[:], again.load_test().images[:])
    other = load_dataset("synthetic", train=50, val=20, seed=1)
    assert not torch.equal(data.train.images[:], other.train.images[:])
    larger = load_dataset("synthetic", train=90, val=20)
    assert torch.equal(data.val.images[:], larger.val.images[:])
    same_sizes = load_dataset("synthetic", train=50, val=50, test=50)
    parts = [split.images[:] for split in (same_sizes.train, same_sizes.val, same_sizes.load_test())]
    assert not any(torch.equal(parts[one], parts[other]) for one, other in ((0, 1), (0, 2), (1, 2)))


def test_classes_can_be_learnt() -> None:
    """The nearest mean of the training images names the class of most others."""
    data = load_dataset("synthetic", train=300, val=200)
    images, labels = data.train.images[:], data.train.labels
    means = torch.stack([images[labels == label].mean(0) for label in range(10)])
    distances = torch.cdist(data.val.images[:].flatten(1), means.flatten(1))
    assert (distances.argmin(1) == data.val.labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"shape": [3, 32]}, "shape"),
        ({"shape": [3, 32, 0]}, "shape"),
        ({"shape": "332"}, "shape"),
        ({"shape": 5}, "shape"),
        ({"shape": None}, "shape"),
        ({"classes": 1}, "classes"),
        ({"train": 1}, "train"),
        ({"val": 0}, "val"),
        ({"test": 1.0}, "test"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"train": 10**9}, "memory"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=key):
        load_dataset("synthetic", **options)


def test_facts_are_those_of_the_loaded_set() -> None:
    for name in ("digits", "synthetic"):
        facts, data = dataset_facts(name), load_dataset(name)
        assert facts is not None
        assert {key: getattr(data, key) for key in vars(facts)} == vars(facts)
    assert dataset_facts("mnist") is None and dataset_facts(None) is None


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_set_has_facts_and_those_with_files_are_not_embedded(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # As on a machine without the Debian package.
    monkeypatch.setattr(fashion_mnist, "_DEBIAN", tmp_path / "none")
    facts = dataset_facts(name)
    assert facts is not None and facts.name == name
    assert len(facts.mean) == len(facts.std) == facts.input_shape[0]
    data = embedded_dataset(name)
    assert (data is None) == (name not in ("digits", "synthetic"))
    if data is None:
        found, source = real_inputs(facts.input_shape, 2, name)
        assert "photographs" in source and found.shape == (2, *facts.input_shape)
        with pytest.raises((InputError, MissingError), match=r"data\.root=DIR"):
            load_dataset(name, **({"val": 1} if name == "folders" else {}))


def test_real_inputs_of_an_unknown_set() -> None:
    with pytest.raises(InputError, match="mnist"):
        real_inputs((3, 8, 8), 1, "mnist")
