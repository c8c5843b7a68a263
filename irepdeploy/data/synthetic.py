"""Generated images, a smooth pattern per class plus noise, for runs that only test the code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from irepdeploy.data.dataset import Dataset, DatasetFacts, Split
from irepdeploy.data.options import whole
from irepdeploy.data.pixels import Pixels
from irepdeploy.errors import InputError

__all__ = ["SYNTHETIC", "synthetic"]

_MOST_PIXELS = 1 << 31
_CHUNK = 1000
# Amplitude of the pattern and standard deviation of the noise, in grey levels.
_SWING, _NOISE = 50, 40

SYNTHETIC = DatasetFacts("synthetic", (3, 32, 32), tuple(map(str, range(10))), (0.5,) * 3, (0.25,) * 3)


def synthetic(
    *,
    shape: Sequence[int] = SYNTHETIC.input_shape,
    classes: int = 10,
    train: int = 500,
    val: int = 200,
    test: int = 200,
    seed: int = 0,
) -> Dataset:
    """Generate images that a network can classify.

    Args:
        shape: Shape [C, H, W] of an image.
        classes: Number of classes, each with its own pattern.
        train: Number of training images, at least 2.
        val: Number of search-validation images.
        test: Number of test images.
        seed: Seed of the patterns and the noise. A split does not depend on the sizes of the others.
    """
    if not isinstance(shape, list | tuple) or len(shape) != 3:
        raise InputError(
            f"expected shape [channels, height, width], got {shape!r}", where="data", hint="such as [3, 32, 32]"
        )
    sides = [whole(f"shape[{axis}]", side, 1, 1 << 14) for axis, side in enumerate(shape)]
    classes = whole("classes", classes, 2, 100_000)
    sizes = {"train": whole("train", train, 2), "val": whole("val", val, 1), "test": whole("test", test, 1)}
    seed = whole("seed", seed, 0, 2**60)
    channels, height, width = sides
    if max(*sizes.values(), classes) * channels * height * width > _MOST_PIXELS:
        raise InputError("the images do not fit into memory", where="data", hint="reduce train, val or test")
    coarse = torch.randn(classes, channels, 4, 4, generator=torch.Generator().manual_seed(seed))
    patterns = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    mean, std = SYNTHETIC.mean[:1] * channels, SYNTHETIC.std[:1] * channels

    def part(name: str) -> Split:
        random = torch.Generator().manual_seed(3 * seed + 1 + list(sizes).index(name))
        labels = torch.randperm(sizes[name], generator=random) % classes
        chunks = []
        for chosen in labels.split(_CHUNK):
            noise = torch.randn(len(chosen), *sides, generator=random)
            chunks.append((127.5 + _SWING * patterns[chosen] + _NOISE * noise).round_().clamp_(0, 255).byte())
        values = torch.cat(chunks).contiguous(memory_format=torch.channels_last)
        return Split(Pixels(values, mean, std), labels)

    return Dataset(
        name="synthetic",
        input_shape=(channels, height, width),
        classes=tuple(map(str, range(classes))),
        mean=mean,
        std=std,
        train=part("train"),
        val=part("val"),
        load_test=lambda: part("test"),
    )
