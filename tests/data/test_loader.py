"""Batches and augmentation of images in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from irepdeploy.data import Augmentation, Loader, Split, in_order
from irepdeploy.data.pixels import Pixels
from irepdeploy.errors import InputError

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.5)
ALL = Augmentation(crop=4, flip=True, cutout=16)


def random_from(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixel_split(count: int = 50, size: tuple[int, int] = (32, 32), channels: int = 3) -> Split:
    """Random bytes; the label of each image is its number."""
    values = torch.randint(1, 256, (count, channels, *size), generator=random_from(0), dtype=torch.uint8)
    values = values.contiguous(memory_format=torch.channels_last)
    return Split(Pixels(values, MEAN[:channels], STD[:channels]), torch.arange(count))


def bytes_of(images: torch.Tensor) -> torch.Tensor:
    """Return the original pixels of normalized images."""
    channels = images.shape[1]
    mean, std = torch.tensor(MEAN[:channels]).view(-1, 1, 1), torch.tensor(STD[:channels]).view(-1, 1, 1)
    return ((images * std + mean) * 255).round().int()


def epoch(split: Split, batch_size: int, seed: int, augmentation: Augmentation | None = None, **more: Any) -> list[Any]:
    return list(Loader(split, batch_size, random_from(seed), augmentation, **more))


# Order and batches.


def test_an_epoch_has_every_image_once_with_its_label() -> None:
    split = pixel_split()
    loader = Loader(split, 12, random_from(1))
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [12, 12, 12, 12, 2]
    assert len(loader) == 5
    labels = torch.cat([labels for _, labels in batches])
    assert sorted(labels.tolist()) == list(range(50)) != labels.tolist()
    for images, numbers in batches:
        assert torch.equal(images, split.images[numbers])
        assert images.dtype == torch.float32 and images.is_contiguous(memory_format=torch.channels_last)


def test_a_last_batch_of_one_image_is_left_out() -> None:
    assert [len(labels) for _, labels in epoch(pixel_split(25), 12, 0)] == [12, 12]
    assert [len(labels) for _, labels in epoch(pixel_split(26), 12, 0)] == [12, 12, 2]


def test_order_differs_by_epoch_and_by_seed_alone() -> None:
    loader = Loader(pixel_split(), 50, random_from(3))
    first, second = ([labels.tolist() for _, labels in loader] for _ in range(2))
    assert first != second
    assert [labels.tolist() for _, labels in epoch(pixel_split(), 50, 3)] == first
    assert [labels.tolist() for _, labels in epoch(pixel_split(), 50, 4)] != first


def test_the_order_is_one_permutation_of_the_generator() -> None:
    """The draws of older runs are unchanged, so that they can be resumed and repeated."""
    expected = torch.randperm(50, generator=random_from(7))
    assert torch.equal(torch.cat([labels for _, labels in epoch(pixel_split(), 12, 7)]), expected)


def test_tensors_are_loaded_as_they_are() -> None:
    images = torch.randn(30, 1, 16, 16, generator=random_from(0))
    for batch, labels in epoch(Split(images, torch.arange(30)), 8, 0):
        assert torch.equal(batch, images[labels])


def test_nothing_else_is_random() -> None:
    state = torch.get_rng_state()
    epoch(pixel_split(), 12, 0, ALL)
    assert torch.equal(torch.get_rng_state(), state)


def test_loading_does_not_change_the_split() -> None:
    for split in (pixel_split(), Split(torch.randn(20, 3, 32, 32), torch.arange(20))):
        before = split.images[:].clone()
        epoch(split, 5, 0, ALL)
        epoch(split, 5, 0, Augmentation(cutout=8))
        assert torch.equal(split.images[:], before)


def test_in_order_is_everything_in_its_order() -> None:
    split = pixel_split()
    batches = list(in_order(split, 12))
    assert [len(labels) for _, labels in batches] == [12, 12, 12, 12, 2]
    assert torch.equal(torch.cat([labels for _, labels in batches]), split.labels)
    assert torch.equal(torch.cat([images for images, _ in batches]), split.images[:])
    assert len(list(in_order(pixel_split(1), 12))) == 1


@pytest.mark.parametrize(("count", "batch_size", "ranks"), [(1, 10, 1), (0, 10, 1), (3, 10, 2), (50, 3, 2), (50, 1, 1)])
def test_too_few_images_for_a_batch(count: int, batch_size: int, ranks: int) -> None:
    with pytest.raises(InputError, match="too few"):
        Loader(pixel_split(count), batch_size, random_from(0), ranks=ranks)


# Resuming and sharing.


def test_a_saved_generator_goes_on_to_the_bit() -> None:
    random = random_from(5)
    loader = Loader(pixel_split(), 12, random, ALL)
    list(loader)
    state = random.get_state()
    second, third = list(loader), list(loader)
    resumed = torch.Generator()
    resumed.set_state(state)
    again = Loader(pixel_split(), 12, resumed, ALL)
    for expected in (second, third):
        for (images, labels), (other_images, other_labels) in zip(expected, again, strict=True):
            assert torch.equal(images, other_images) and torch.equal(labels, other_labels)
    assert not torch.equal(second[0][0], third[0][0])


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_shares_of_all_processes_are_the_batch_of_one(ranks: int) -> None:
    together = epoch(pixel_split(50), 12, 2, ALL)
    shares = [epoch(pixel_split(50), 12, 2, ALL, rank=rank, ranks=ranks) for rank in range(ranks)]
    for number, parts in enumerate(zip(*shares, strict=True)):
        images, labels = together[number]
        for rank, (own_images, own_labels) in enumerate(parts):
            assert torch.equal(own_images, images[rank::ranks]) and torch.equal(own_labels, labels[rank::ranks])
    # 2 images are too few for two processes.
    assert len(shares[0]) == 4


def test_what_happens_to_an_image_does_not_depend_on_the_batch_size() -> None:
    def by_label(batches: list[Any]) -> torch.Tensor:
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return images[labels.argsort()]

    assert torch.equal(by_label(epoch(pixel_split(), 10, 4, ALL)), by_label(epoch(pixel_split(), 25, 4, ALL)))


# Effects of augmentation, found by searching in the images.


@pytest.mark.parametrize("size", [(32, 32), (20, 26)])
def test_a_crop_is_a_shift_with_black_around(size: tuple[int, int]) -> None:
    split = pixel_split(300, size)
    shifts = set()
    for images, labels in epoch(split, 100, 0, Augmentation(crop=4)):
        sources = F.pad(split.images.values[labels].int(), (4, 4, 4, 4))
        for image, source in zip(bytes_of(images), sources, strict=True):
            found = [
                (down, right)
                for down in range(9)
                for right in range(9)
                if torch.equal(image, source[:, down : down + size[0], right : right + size[1]])
            ]
            assert len(found) == 1
            shifts.add(found[0])
    # 300 draws of 81 positions: about 2 of them do not occur.
    assert len(shifts) > 70
    assert {down for down, _ in shifts} == {right for _, right in shifts} == set(range(9))


def test_half_the_images_are_flipped() -> None:
    split = pixel_split(400, (8, 12))
    flipped = 0
    for images, labels in epoch(split, 100, 1, Augmentation(flip=True)):
        sources = split.images.values[labels].int()
        for image, source in zip(bytes_of(images), sources, strict=True):
            assert torch.equal(image, source) != torch.equal(image, source.flip(2))
            flipped += int(torch.equal(image, source.flip(2)))
    assert 160 < flipped < 240


@pytest.mark.parametrize(("cutout", "size"), [(16, (32, 32)), (7, (20, 26)), (64, (32, 32)), (1, (4, 4))])
def test_cutout_sets_one_square_to_the_mean(cutout: int, size: tuple[int, int]) -> None:
    split = pixel_split(300, size)
    heights = []
    for images, labels in epoch(split, 100, 2, Augmentation(cutout=cutout)):
        sources = split.images[labels]
        assert torch.equal(images == 0, (images != sources) | (sources == 0))
        for image, source in zip(images, sources, strict=True):
            hole = (image != source).any(0)
            rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
            extents = [int(side.max() - side.min()) + 1 for side in (rows, columns)]
            assert hole.sum() == extents[0] * extents[1] and max(extents) <= cutout
            heights.append(extents[0])
    # Its centre may be anywhere, so at the border part of it is outside.
    assert max(heights) == min(cutout, size[0])
    if 1 < cutout < size[0]:
        assert min(heights) in (cutout // 2, cutout // 2 + 1)
        assert 0 < sum(height < cutout for height in heights) < len(heights)


def test_all_three_are_drawn_independently() -> None:
    draws = ALL.draw(4000, (32, 32), random_from(0))
    columns = [draws.shifts[:, 0], draws.shifts[:, 1], draws.flips, draws.holes[:, 0], draws.holes[:, 1]]
    correlation = torch.corrcoef(torch.stack([column.double() for column in columns]))
    assert (correlation - torch.eye(5)).abs().max() < 0.06
    assert draws.seeds is None
    # Anywhere in an image that is not square.
    assert ALL.draw(4000, (20, 26), random_from(0)).holes.max(0).values.tolist() == [19, 25]


def test_order_of_the_steps_is_crop_flip_cutout() -> None:
    """A hole of the crop's border would not be a square of 0, and a flipped crop is the crop of a flipped image."""
    split = pixel_split(64)
    loader = Loader(split, 64, random_from(9), ALL)
    images, labels = next(iter(loader))
    random = random_from(9)
    torch.randperm(64, generator=random)
    draws = ALL.draw(64, (32, 32), random)
    for row in range(64):
        source = F.pad(split.images.values[labels[row]], (4, 4, 4, 4))
        down, right = draws.shifts[row].tolist()
        crop = source[:, down : down + 32, right : right + 32]
        crop = crop.flip(2) if draws.flips[row] else crop
        expected = split.images.normalize(crop[None])[0]
        top, left = (max(0, centre - 8) for centre in draws.holes[row].tolist())
        bottom, end = (centre + 8 for centre in draws.holes[row].tolist())
        expected[:, top:bottom, left:end] = 0
        assert torch.equal(images[row], expected)


@pytest.mark.parametrize(
    "options", [{"crop": -1}, {"cutout": -1}, {"area": 0.0}, {"area": 1.1}, {"area": float("nan")}]
)
def test_augmentations_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="augmentation"):
        Augmentation(**options)
