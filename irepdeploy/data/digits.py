"""Scikit-learn's handwritten digits: 1,797 scans of 8x8 pixels that are part of the library.

They are enlarged to 16x16 for the three stages of a small VGG. The test set of 597 images is fixed; the training and
search-validation sets are taken from the remaining 1,200.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from irepdeploy.data.dataset import Dataset, DatasetFacts, Split
from irepdeploy.errors import InputError

__all__ = ["DIGITS", "digits"]

_POOL = 1200
_MEAN, _STD = 0.305, 0.35

DIGITS = DatasetFacts("digits", (1, 16, 16), tuple(map(str, range(10))), (_MEAN,), (_STD,))


def digits(*, train: int = 150, val: int = 400) -> Dataset:
    """Load the digits.

    Args:
        train: Number of training images, at least 2. The default is low because with all of them every network reaches
            99 %.
        val: Number of search-validation images. At most 1,200 together with `train`.

    Raises:
        InputError: The numbers do not fit.
        MissingError: Scikit-learn is not installed.
    """
    whole = type(train) is int and type(val) is int
    if not whole or train < 2 or val < 1 or train + val > _POOL:
        raise InputError(
            f"train={train!r} and val={val!r} do not fit: train at least 2, val at least 1, at most {_POOL} together",
            where="data",
        )
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images).float().unsqueeze(1) / 16
    images = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    images = (images - _MEAN) / _STD
    labels = torch.from_numpy(raw.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))

    def cut(start: int, stop: int) -> Split:
        chosen = order[start:stop]
        return Split(images[chosen], labels[chosen])

    return Dataset(
        **vars(DIGITS), train=cut(0, train), val=cut(_POOL - val, _POOL), load_test=lambda: cut(_POOL, len(order))
    )
