"""Any Dataset, DataLoader or iterable as training and validation data."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from irepdeploy.data import Split, Stream, StreamLoader, check_disjoint, given, held, opened
from irepdeploy.data.stream import _parts
from irepdeploy.errors import InputError
from irepdeploy.tasks import Classification
from support.foreign import DictSamples, Samples, pairs

READ = Classification().read
DATA = pairs(10)


class Flow(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from zip(*DATA, strict=True)


class Batches:
    """An iterable of batches that is no torch class."""

    def __iter__(self) -> Iterator[Any]:
        return zip(DATA[0].split(4), DATA[1].split(4), strict=True)


KINDS: dict[str, Callable[[], Any]] = {
    "map-style": lambda: Samples(DATA),
    "dictionaries": lambda: DictSamples(DATA),
    "iterable": Flow,
    "loader": lambda: DataLoader(Samples(DATA), batch_size=4),
    "loader of an iterable": lambda: DataLoader(Flow(), batch_size=4),
    "own batches": Batches,
    "a list": lambda: list(zip(*DATA, strict=True)),
}


def order(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labels(loader: Any) -> list[list[int]]:
    return [targets.tolist() for _, targets in loader]


def flat(found: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(found))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_all_samples_in_channels_last(kind: str) -> None:
    stream = opened(KINDS[kind](), READ, "train")
    assert isinstance(stream, Stream)
    found = list(stream.in_order(4))
    assert torch.equal(torch.cat([inputs for inputs, _ in found]), DATA[0])
    assert torch.equal(torch.cat([targets for _, targets in found]), DATA[1])
    assert found[0][0].is_contiguous(memory_format=torch.channels_last)
    assert [len(inputs) for inputs, _ in found] == [4, 4, 2] and len(stream) == 10
    loader = StreamLoader(stream, 4, order())
    assert sorted(flat(labels(loader))) == sorted(DATA[1].tolist())
    # Known after the first epoch at the latest.
    assert len(loader) == 3


@pytest.mark.parametrize(
    "data", [DATA, tuple(each.numpy() for each in DATA), {"image": DATA[0], "label": DATA[1]}, TensorDataset(*DATA)]
)
def test_arrays_become_a_split(data: Any) -> None:
    split = opened(data, READ, "train", torch.float64)
    assert isinstance(split, Split) and isinstance(split.images, Tensor)
    assert split.images.dtype == torch.float64 and torch.equal(split.labels, DATA[1])


@pytest.mark.parametrize("kind", ["map-style", "shuffled loader", "loader with a generator"])
def test_epochs_differ_and_a_resumed_run_sees_the_same(kind: str) -> None:
    def loader(state: Tensor | None = None) -> tuple[StreamLoader, torch.Generator]:
        own = torch.Generator().manual_seed(7) if kind == "loader with a generator" else None
        samples = Samples((DATA[0], torch.arange(10)))
        source = samples if kind == "map-style" else DataLoader(samples, 4, shuffle=True, generator=own)
        drawn = order()
        if state is not None:
            drawn.set_state(state)
        return StreamLoader(Stream(source, READ, "train"), 4, drawn), drawn

    first, drawn = loader()
    one = labels(first)
    state = drawn.get_state()
    two = labels(first)
    assert one != two and sorted(flat(one)) == sorted(flat(two)) == list(range(10))
    torch.rand(5)  # anything may have happened in the meantime
    assert labels(loader(state)[0]) == two


def test_augmentation_by_any_generator_is_repeated() -> None:
    class Augmented(Samples):
        def __getitem__(self, index: int) -> Any:
            return torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))]), index

    def epoch() -> Tensor:
        return torch.cat([inputs for inputs, _ in StreamLoader(Stream(Augmented(DATA), READ, "train"), 4, order())])

    assert torch.equal(epoch(), epoch())


@pytest.mark.parametrize("kind", ["map-style", "loader", "own batches"])
def test_processes_divide_each_batch(kind: str) -> None:
    parts = [
        labels(StreamLoader(Stream(KINDS[kind](), READ, "train"), 4, order(), rank=rank, ranks=2)) for rank in range(2)
    ]
    whole = labels(StreamLoader(Stream(KINDS[kind](), READ, "train"), 4, order()))
    # The last batch has fewer than two samples for each rank.
    for one, two, both in zip(*parts, whole[:2], strict=True):
        assert one == both[::2] and two == both[1::2]


def test_a_distributed_sampler_divides_the_samples_itself() -> None:
    samples = Samples((DATA[0], torch.arange(10)))
    sampler = DistributedSampler(samples, num_replicas=2, rank=1, shuffle=True)
    loader = StreamLoader(Stream(DataLoader(samples, 5, sampler=sampler), READ, "train"), 4, order(), rank=1, ranks=2)
    one = labels(loader)
    loader.epoch = 1
    assert one != labels(loader)
    assert len(flat(one)) == 5


def test_batches_have_one_kind_of_images_but_for_the_last() -> None:
    # 23 samples, every third one upright: one batch of upright ones, three of the others, and the remainder.
    upright = [sample % 3 == 0 for sample in range(23)]
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0)).tolist()
    parts = _parts(order, 5, upright)
    assert sorted(sample for part in parts for sample in part) == list(range(23)) and [len(part) for part in parts] == [
        5,
        5,
        5,
        5,
        3,
    ]
    assert [len({upright[sample] for sample in part}) for part in parts[:4]] == [1] * 4
    for kind in (False, True):
        mine = [sample for part in parts for sample in part if upright[sample] is kind]
        assert mine == [sample for sample in order if upright[sample] is kind]
    assert _parts(order, 5, ()) == [order[start : start + 5] for start in range(0, 23, 5)]


def test_the_check_sees_every_batch_of_the_first_epoch_alone() -> None:
    seen: list[int] = []
    loader = StreamLoader(Stream(Samples(DATA), READ, "train"), 4, order(), lambda targets: seen.append(len(targets)))
    for _ in range(2):
        list(loader)
    assert seen == [4, 4, 2]


def test_validation_is_held_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    split = held(Stream(DataLoader(Samples(DATA), 4), READ, "val"), 4, torch.device("cpu"))
    assert isinstance(split, Split) and torch.equal(split.labels, DATA[1])
    monkeypatch.setattr(given, "memory_bytes", lambda: 1000)
    stream = held(Stream(DataLoader(Samples(DATA), 4), READ, "val"), 4, torch.device("cpu"))
    assert isinstance(stream, Stream) and len(stream) == 10

    class Sizes(Samples):
        def __getitem__(self, index: int) -> Any:
            return torch.zeros(1, 4 + index % 2, 4), 0

    monkeypatch.undo()
    stream = held(Stream(DataLoader(Sizes(DATA), batch_size=1), READ, "val"), 1, torch.device("cpu"))
    assert isinstance(stream, Stream) and len(stream) == 10


def test_samples_of_both_sets_are_found() -> None:
    ours, theirs = pairs(30, 1), pairs(12, 2)
    ours[0][17] = theirs[0][5]
    splits = [opened(data, READ, "data") for data in (ours, theirs)]
    with pytest.raises(InputError, match=r"val: 1 of 12 images are also in train.*allow_shared=True"):
        check_disjoint(ours, theirs, *splits)
    check_disjoint(ours, theirs, opened(pairs(30, 3), READ, "train"), splits[1])
    samples = Samples(ours)
    parts = Subset(samples, [1, 2, 3]), Subset(samples, [3, 4])
    with pytest.raises(InputError, match="1 of 2 images"):
        check_disjoint(*parts, *(opened(part, READ, "data") for part in parts))
    # A part of the training set, in loaders, and parts of parts.
    inner = Subset(Subset(samples, [4, 5, 6]), [1, 2])
    for train, val in (
        (samples, inner),
        (DataLoader(samples, 4), DataLoader(inner, 1)),
        (Subset(samples, [6, 5]), inner),
    ):
        with pytest.raises(InputError, match="2 of 2 images"):
            check_disjoint(
                train, val, opened(train, READ, "train"), held(opened(val, READ, "val"), 4, torch.device("cpu"))
            )
    check_disjoint(Subset(samples, [4, 7]), inner, *(opened(part, READ, "data") for part in (samples, inner)))
    with pytest.raises(InputError, match="30 of 30"):
        check_disjoint(samples, samples, *[opened(samples, READ, "data")] * 2)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ((each for each in [DATA]), "a generator can be iterated only once"),
        (3, "expected data, got int"),
        (None, "expected data, got NoneType"),
        ((DATA[0], DATA[1][:3]), "10 inputs for 3 targets"),
        ((DATA[0][:0], DATA[1][:0]), "no samples"),
    ],
)
def test_what_is_no_data(source: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        opened(source, READ, "train")
    assert caught.value.line.startswith("train: ")


class Failing(Samples):
    def __getitem__(self, index: int) -> Any:
        raise KeyError("no such file\nin the archive")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (DataLoader(Samples((DATA[0][:0], DATA[1][:0])), 4), "no batch to train on: the data are empty"),
        (DataLoader(Samples(DATA), 1), "no batch has two samples"),
        (Failing(DATA), "reading a batch raised KeyError: 'no such file"),
        (Samples((DATA[0], ["a"] * 10)), ""),  # type: ignore[arg-type]
        ([("a", 1)] * 4, "expected a tensor of inputs, got"),
    ],
)
def test_what_fails_while_reading(source: Any, words: str) -> None:
    loader = StreamLoader(Stream(source, READ, "train"), 4, order())
    if not words:
        assert all(isinstance(targets, list | tuple) for _, targets in loader)
        return
    with pytest.raises(InputError, match=words) as caught:
        list(loader)
    assert caught.value.line.startswith("train: ") and "\n" not in caught.value.line
