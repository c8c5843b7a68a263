"""Stratified split of a training set into training and search-validation images."""

from __future__ import annotations

import torch
from torch import Tensor

from irepdeploy.errors import InputError

__all__ = ["cut_validation", "stratified"]


def cut_validation(labels: Tensor, val: int, train: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split a training set, preserving the class proportions up to rounding.

    Args:
        labels: Class indices (N,) of the training set.
        val: Number of search-validation images.
        train: Number of training images; None for all others.
        seed: Seed of the split.

    Returns:
        The sorted indices of the training images and of the search-validation images. The latter do not depend on
        `train`.

    Raises:
        InputError: There are too few images.
    """
    wanted = val + (2 if train is None else train)
    if wanted > len(labels):
        raise InputError(
            f"val={val} and train={'all others' if train is None else train} do not fit: the training set has "
            f"{len(labels)} images",
            where="data",
        )
    random = torch.Generator().manual_seed(seed)
    everything = torch.arange(len(labels))
    held_out = stratified(labels, val, torch.randperm(len(labels), generator=random))
    others = everything[~held_out]
    if train is not None:
        others = others[stratified(labels[others], train, torch.randperm(len(others), generator=random))]
    return others, everything[held_out]


def stratified(labels: Tensor, count: int, order: Tensor) -> Tensor:
    """Choose `count` images in proportion to the classes by the largest remainders, and return a mask (N,).

    Args:
        labels: Class indices (N,).
        count: Number of images.
        order: Permutation of the N indices; the first images of each class are chosen.
    """
    sizes = torch.bincount(labels)
    exact = sizes.double() * count / len(labels)
    quota = exact.long()
    rest = torch.argsort(exact - quota, descending=True, stable=True)
    quota[rest[: count - int(quota.sum())]] += 1
    by_class = order[torch.argsort(labels[order], stable=True)]
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[by_class[rank < quota[labels[by_class]]]] = True
    return chosen
