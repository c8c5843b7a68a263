"""Augmentation beyond crop, flip and cutout: against Pillow and colorsys, by statistics, and to the bit."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from irepdeploy.data import Augmentation, Loader, Split, colours
from irepdeploy.data.boxes import cropped, random_boxes
from irepdeploy.data.pixels import Pixels
from irepdeploy.data.randaugment import OPERATIONS, randaugmented
from irepdeploy.errors import InputError
from irepdeploy.tasks import Classification

EACH: dict[str, dict[str, Any]] = {
    "area": {"area": 0.3},
    "randaugment": {"randaugment": 2},
    "brightness": {"brightness": 0.4},
    "contrast": {"contrast": 0.4},
    "saturation": {"saturation": 0.4},
    "hue": {"hue": 0.2},
    "erase": {"erase": 0.7},
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
}
EVERYTHING = {name: value for each in EACH.values() for name, value in each.items()}
ALONE = {name: value for name, value in EVERYTHING.items() if name not in ("mixup", "cutmix")}


def random_from(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int = 8, channels: int = 3, size: tuple[int, int] = (17, 24), seed: int = 0) -> Tensor:
    """Half noise, half smooth images that do not reach black and white."""
    pixels = torch.randint(0, 256, (count, channels, *size), generator=random_from(seed), dtype=torch.uint8)
    coarse = torch.rand(count // 2, channels, 4, 5, generator=random_from(seed))
    pixels[count // 2 :] = (20 + 200 * F.interpolate(coarse, size=size, mode="bilinear")).to(torch.uint8)
    return pixels


def split(count: int = 60, channels: int = 3, size: tuple[int, int] = (16, 20)) -> Split:
    return Split(Pixels(noise(count, channels, size), (0.5,) * channels, (0.25,) * channels), torch.arange(count))


def epoch(data: Split, batch_size: int, seed: int, classes: int | None = 60, **options: Any) -> list[Any]:
    return list(Loader(data, batch_size, random_from(seed), Augmentation(**options), classes=classes))


def pillow(pixels: Tensor, function: Callable[[Any], Any]) -> Tensor:
    """Apply Pillow's operation to each image."""
    found = []
    for image in pixels.permute(0, 2, 3, 1).numpy():
        one = np.asarray(function(Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)))
        found.append(torch.tensor(one.reshape(image.shape)).permute(2, 0, 1))
    return torch.stack(found)


# Colours.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
def test_blends_are_those_of_pillow(name: str, channels: int) -> None:
    pixels = noise(channels=channels)
    enhance = getattr(ImageEnhance, {"saturation": "Color"}.get(name, name.capitalize()))
    for factor in (0.0, 0.1, 0.73, 1.0, 1.9):
        found = getattr(colours, name)(pixels, torch.full((8,), factor))
        assert torch.equal(found, pillow(pixels, lambda image, factor=factor: enhance(image).enhance(factor)))
    factors = torch.linspace(0, 2, 8)
    each = [getattr(colours, name)(pixels[row : row + 1], factors[row : row + 1]) for row in range(8)]
    assert torch.equal(getattr(colours, name)(pixels, factors), torch.cat(each))


@pytest.mark.parametrize("channels", [1, 3])
def test_histograms_are_those_of_pillow(channels: int) -> None:
    pixels = noise(channels=channels)
    pixels[0], pixels[1, :, 3:] = 77, 200
    pixels[2, 0] = 5
    assert torch.equal(colours.equalized(pixels), pillow(pixels, ImageOps.equalize))
    stretched = colours.auto_contrast(pixels)
    # Pillow rounds some down, even the brightest.
    above = stretched.int() - pillow(pixels, ImageOps.autocontrast).int()
    assert above.min() == 0 and above.max() <= 1 and (above > 0).double().mean() < 0.01
    assert (stretched[4:].amax((2, 3)) == 255).all() and (stretched[4:].amin((2, 3)) == 0).all()
    for bits in (1, 4, 8):
        expected = pillow(pixels, lambda image, bits=bits: ImageOps.posterize(image, bits))
        assert torch.equal(colours.posterized(pixels, bits), expected)


def test_hue_is_that_of_colorsys() -> None:
    pixels = torch.tensor([[0, 0, 0], [255] * 3, [255, 0, 0], [9, 200, 30], [90, 4, 255], [200, 199, 1], [7, 9, 250]])
    for shift in (0.0, 0.1, -0.25, 0.5):
        found = colours.hue(pixels.to(torch.uint8)[:, :, None, None], torch.full((7,), shift)).flatten(1)
        for before, after in zip(pixels.tolist(), found.tolist(), strict=True):
            tone, saturation, value = colorsys.rgb_to_hsv(*(each / 255 for each in before))
            expected = colorsys.hsv_to_rgb((tone + shift) % 1, saturation, value)
            assert after == pytest.approx([255 * each for each in expected], abs=0.51)


def test_factors_are_uniform_in_their_ranges() -> None:
    augmentation = Augmentation(brightness=0.4, contrast=1.0, hue=0.2)
    drawn = augmentation.draw(5000, (16, 16), random_from(0)).jitters
    assert drawn is not None
    for column, (middle, spread) in enumerate(((1, 0.4), (1, 1.0), (1, 0.0), (0, 0.2))):
        values = drawn[:, column].double()
        assert values.min() >= middle - spread - 1e-6 and values.max() <= middle + spread + 1e-6
        assert float(values.std()) == pytest.approx(spread / 3**0.5, abs=0.02)


# RandAugment.


def with_operation(name: str, pixels: Tensor, magnitude: float, sign: int = 1) -> Tensor:
    count = len(pixels)
    chosen = torch.full((count, 1), OPERATIONS.index(name))
    return randaugmented(pixels, chosen, torch.full((count, 1), sign), magnitude)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [(17, 24), (28, 28)])
def test_geometry_is_that_of_pillow(size: tuple[int, int], sign: int) -> None:
    pixels, (height, width), by = noise(size=size), size, sign * 19 / 30
    across, down = width / 2, height / 2
    shear = 0.3 * by
    matrices = {
        "shear_x": (1, shear, -shear * down, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, -shear * across),
        "translate_x": (1, 0, 150 / 331 * width * by, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, 150 / 331 * height * by),
    }
    for name, matrix in matrices.items():
        found = with_operation(name, pixels, 19, sign)
        expected = pillow(pixels, lambda image, m=matrix: image.transform(image.size, Image.Transform.AFFINE, m))
        # A position halfway between two pixels may be rounded differently.
        assert (found != expected).float().mean() < 0.01, name
    found = with_operation("rotate", pixels, 19, sign)
    expected = pillow(pixels, lambda image: image.rotate(-sign * 19, center=(across, down)))
    assert (found != expected).float().mean() < 0.01


def test_the_other_operations() -> None:
    pixels = noise()
    for sign in (1, -1):
        for name, factor in (("brightness", 1 + sign * 0.45), ("colour", 1 + sign * 0.45)):
            enhance = ImageEnhance.Color if name == "colour" else ImageEnhance.Brightness
            expected = pillow(pixels, lambda image, e=enhance, f=factor: e(image).enhance(f))
            assert torch.equal(with_operation(name, pixels, 15, sign), expected)
    assert torch.equal(
        with_operation("solarize", pixels, 15), pillow(pixels, lambda image: ImageOps.solarize(image, 128))
    )
    assert torch.equal(
        with_operation("posterize", pixels, 30), pillow(pixels, lambda image: ImageOps.posterize(image, 4))
    )
    assert torch.equal(with_operation("equalize", pixels, 0), colours.equalized(pixels))
    assert torch.equal(with_operation("auto_contrast", pixels, 0), colours.auto_contrast(pixels))


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("auto_contrast", "equalize")])
def test_magnitude_0_changes_nothing_and_30_does(name: str) -> None:
    pixels = noise()
    before = pixels.clone()
    assert torch.equal(with_operation(name, pixels, 0), before)
    assert torch.equal(with_operation(name, pixels, 30), before) == (name == "identity")
    assert torch.equal(pixels, before)


def test_every_operation_is_as_likely() -> None:
    draws = Augmentation(randaugment=3).draw(3000, (16, 16), random_from(0))
    assert draws.operations is not None and draws.signs is not None
    counts = torch.bincount(draws.operations.flatten(), minlength=len(OPERATIONS))
    assert len(counts) == len(OPERATIONS) == 14
    # 9,000 draws of 14: a standard deviation of 24.
    assert (counts - 9000 / 14).abs().max() < 100
    assert abs(float(draws.signs.double().mean())) < 0.05 and set(draws.signs.flatten().tolist()) == {-1, 1}
    assert (draws.operations[:, 0] == draws.operations[:, 1]).double().mean() < 0.1


# Crops and erasing.


def test_boxes_have_the_area_and_aspect_asked_for() -> None:
    boxes, found = random_boxes(np.random.default_rng(0), 4000, (40, 60), (0.2, 0.5), (0.5, 2.0))
    assert found.all()
    top, left, tall, wide = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + tall <= 40).all() and (left + wide <= 60).all()
    shares, ratios = tall * wide / 2400, wide / tall
    assert 0.18 < shares.min() < 0.22 and 0.47 < shares.max() < 0.53 and abs(shares.mean() - 0.35) < 0.02
    assert 0.45 < ratios.min() < 0.55 and 1.8 < ratios.max() < 2.2
    assert top.min() == left.min() == 0 and (top + tall).max() == 40 and (left + wide).max() == 60
    thin, fits = random_boxes(np.random.default_rng(0), 50, (1, 900), (0.9, 1), (0.75, 1.33))
    assert not fits.any() and not thin[:, 2:].any()


def test_a_crop_is_its_box_enlarged() -> None:
    ramp = torch.zeros(2, 2, 20, 30)
    ramp[:, 0], ramp[:, 1] = torch.arange(20.0)[:, None], torch.arange(30.0)
    boxes = torch.tensor([[0, 0, 20, 30], [5, 9, 10, 15]])
    found = cropped(ramp, boxes)
    assert torch.allclose(found[0], ramp[0], atol=1e-4)
    # At half size, pixels are averaged in pairs.
    inner = found[1, :, 1:-1, 1:-1]
    assert torch.allclose(inner[0, :, 0], 5 + torch.arange(1, 19) / 2 - 0.25, atol=1e-4)
    assert torch.allclose(inner[1, 0], 9 + torch.arange(1, 29) / 2 - 0.25, atol=1e-4)
    pixels = noise(2, size=(20, 30))
    assert torch.equal(cropped(pixels, boxes[[0, 0]]), pixels)


def test_images_too_long_for_a_crop_are_taken_whole() -> None:
    images = torch.randn(6, 1, 2, 90)
    for batch, labels in epoch(Split(images, torch.arange(6)), 6, 0, area=0.9):
        assert torch.allclose(batch, images[labels], atol=1e-4)


def test_a_rectangle_is_erased_with_its_probability() -> None:
    data = split(1000, size=(20, 26))
    shares = []
    for images, labels in epoch(data, 500, 3, erase=0.4):
        sources = data.images[labels]
        for image, source in zip(images, sources, strict=True):
            hole = (image != source).any(0)
            if hole.any():
                rows, columns = (hole.any(axis).nonzero().flatten() for axis in (1, 0))
                box = (slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1))
                assert (image[:, *box] == 0).all() and hole.sum() == hole[box].numel()
                shares.append(float(hole.double().mean()))
    assert abs(len(shares) / 1000 - 0.4) < 0.05
    assert 0.01 < min(shares) < 0.05 and 0.28 < max(shares) < 0.37


# Mixing.


def mixed_batches(**options: Any) -> tuple[Split, list[tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """Return the split, and for every batch images and targets, and the unmixed images and labels."""
    data = split(600)
    pairs = zip(epoch(data, 200, 5, 600, **options), epoch(data, 200, 5, None), strict=True)
    return data, [(images, targets, plain, labels) for (images, targets), (plain, labels) in pairs]


def test_mixup_is_a_weighted_mean_with_its_partner() -> None:
    shares = []
    for images, targets, plain, labels in mixed_batches(mixup=0.5)[1]:
        own = targets.gather(1, labels[:, None])
        assert torch.equal(targets.gather(1, labels.roll(-100)[:, None]), 1 - own)
        assert torch.allclose(targets.sum(1), torch.ones(200)) and targets.dtype == torch.float32
        weights = own[:, :, None, None]
        assert torch.allclose(images, weights * plain + (1 - weights) * plain.roll(-100, 0), atol=1e-5)
        assert images.is_contiguous(memory_format=torch.channels_last)
        shares += own.flatten().tolist()
    # A beta distribution of alpha a has the variance 1 / (4 (2 a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05) and np.var(shares) == pytest.approx(1 / 8, abs=0.012)


def test_cutmix_pastes_a_rectangle_of_its_partner() -> None:
    shares = []
    for images, targets, plain, labels in mixed_batches(cutmix=1.0)[1]:
        other = plain.roll(-100, 0)
        own, theirs = ((images == each).all(1) for each in (plain, other))
        assert (own | theirs).all()
        kept = targets.gather(1, labels[:, None]).flatten()
        for row in range(200):
            pasted = ~own[row]
            # Pixels equal in both images also count as inside, but 3 of 256 levels are rarely equal.
            assert float(pasted.double().mean()) == pytest.approx(1 - float(kept[row]), abs=0.01)
            if pasted.any():
                rows, columns = (pasted.any(axis).nonzero().flatten() for axis in (1, 0))
                extents = [int(side.max() - side.min()) + 1 for side in (rows, columns)]
                assert extents[0] * extents[1] >= pasted.sum() >= extents[0] * extents[1] - 3
        shares += kept.tolist()
    # Drawn uniformly; parts outside the image are kept too.
    assert 0.65 < np.mean(shares) < 0.8 and min(shares) < 0.3 and max(shares) > 0.95


def test_of_both_each_image_is_mixed_in_one_way() -> None:
    ways = []
    for images, targets, plain, labels in mixed_batches(mixup=1.0, cutmix=1.0)[1]:
        own = targets.gather(1, labels[:, None])[:, :, None, None]
        blended = torch.isclose(images, own * plain + (1 - own) * plain.roll(-100, 0), atol=1e-5).all(3).all(2).all(1)
        cut = ((images == plain) | (images == plain.roll(-100, 0))).all(3).all(2).all(1)
        assert (blended | cut).all()
        ways += (blended & ~cut).tolist()
    assert abs(np.mean(ways) - 0.5) < 0.07


@pytest.mark.parametrize("ranks", [2, 3])
def test_partners_do_not_depend_on_the_number_of_processes(ranks: int) -> None:
    augment = Augmentation(mixup=0.4, cutmix=1.0)
    # With 54 images in batches of 24, the last batch has 6.
    whole, *parts = (
        list(Loader(split(54), 24, random_from(5), augment, rank=rank, ranks=size, classes=60))
        for rank, size in [(0, 1), *((rank, ranks) for rank in range(ranks))]
    )
    for index, (images, targets) in enumerate(whole):
        for rank, part in enumerate(parts):
            same = torch.equal(images[rank::ranks], part[index][0])
            assert same == torch.equal(targets[rank::ranks], part[index][1]) == (len(images) % (2 * ranks) == 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_of_a_mixture_is_the_mixture_of_losses(smoothing: float, dtype: torch.dtype) -> None:
    task = Classification(label_smoothing=smoothing)
    images, targets = epoch(split(), 60, 0, mixup=0.3)[0]
    labels = epoch(split(), 60, 0)[0][1]
    logits = torch.randn(60, 60, generator=random_from(1)).to(dtype)
    shares = targets.gather(1, labels[:, None]).flatten().to(dtype)
    each = [
        F.cross_entropy(logits, wanted, label_smoothing=smoothing, reduction="none")
        for wanted in (labels, labels.roll(-30))
    ]
    expected = (shares * each[0] + (1 - shares) * each[1]).mean()
    assert float(task.loss(logits, targets)) == pytest.approx(float(expected), rel=1e-5)
    assert len(images) == 60


# To the bit.


@pytest.mark.parametrize("name", EACH)
def test_each_changes_the_images_and_none_changes_the_draws_of_others(name: str) -> None:
    plain, changed = epoch(split(), 20, 4), epoch(split(), 20, 4, **EACH[name])
    assert not torch.equal(plain[0][0], changed[0][0])
    if name not in ("mixup", "cutmix"):
        assert all(torch.equal(one[1], other[1]) for one, other in zip(plain, changed, strict=True))
    # The draws of older runs are unchanged: order, crop, flip and cutout.
    before = Augmentation(crop=2, flip=True, cutout=4).draw(50, (16, 16), random_from(1))
    after = Augmentation(crop=2, flip=True, cutout=4, **EACH[name]).draw(50, (16, 16), random_from(1), decoded=False)
    for draws in ("shifts", "flips", "holes"):
        assert torch.equal(getattr(before, draws), getattr(after, draws))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_seed_gives_the_same_epochs_and_a_saved_generator_goes_on(channels: int) -> None:
    options = (
        {**EVERYTHING} if channels == 3 else {k: v for k, v in EVERYTHING.items() if k not in ("saturation", "hue")}
    )
    random = random_from(2)
    loader = Loader(split(channels=channels), 25, random, Augmentation(**options), classes=60)
    state_of_torch = torch.get_rng_state()
    first = list(loader)
    state = random.get_state()
    second = list(loader)
    assert torch.equal(torch.get_rng_state(), state_of_torch)
    resumed = torch.Generator()
    resumed.set_state(state)
    again = list(Loader(split(channels=channels), 25, resumed, Augmentation(**options), classes=60))
    for one, other in zip(second, again, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert not torch.equal(first[0][0], second[0][0])
    assert not torch.equal(epoch(split(channels=channels), 25, 3, **options)[0][0], first[0][0])


def test_an_image_does_not_depend_on_its_batch_or_on_the_processes() -> None:
    def by_label(batches: list[Any]) -> Tensor:
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return images[labels.argsort()]

    expected = by_label(epoch(split(), 60, 6, **ALONE))
    assert torch.equal(by_label(epoch(split(), 7, 6, **ALONE)), expected)
    shares = [
        batch
        for rank in range(2)
        for batch in Loader(split(), 30, random_from(6), Augmentation(**ALONE), rank=rank, ranks=2)
    ]
    assert torch.equal(by_label(shares), expected)


def test_loading_does_not_change_the_split() -> None:
    data = split()
    before = data.images.values.clone()  # type: ignore[attr-defined]
    epoch(data, 20, 0, **EVERYTHING)
    assert torch.equal(data.images.values, before)  # type: ignore[attr-defined]


# Invalid combinations.


@pytest.mark.parametrize(
    "options",
    [
        {"randaugment": -1},
        {"magnitude": 31},
        {"brightness": 1.1},
        {"hue": 0.6},
        {"erase": -0.1},
        {"mixup": -1.0},
        {"cutmix": float("nan")},
    ],
)
def test_settings_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"augmentation: expected .*{next(iter(options))}"):
        Augmentation(**options)


def test_images_that_do_not_fit() -> None:
    numbers = Split(torch.randn(20, 3, 8, 8), torch.arange(20))
    for name in ("randaugment", "brightness", "hue"):
        with pytest.raises(InputError, match="need uint8 images, got normalized floats"):
            epoch(numbers, 10, 0, **EACH[name])
    with pytest.raises(InputError, match="1 or 3 channels, got 2"):
        epoch(split(channels=2), 10, 0, contrast=0.1)
    with pytest.raises(InputError, match="1 channel has no saturation and no hue"):
        epoch(split(channels=1), 10, 0, hue=0.1)
    for data, classes in ((numbers, None), (Split(numbers.images, torch.rand(20)), 5)):
        with pytest.raises(InputError, match="mixup and cutmix need class labels"):
            epoch(data, 10, 0, classes, mixup=0.2)
