"""Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of clothes, 28x28 pixels, from the four published IDX files."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from irepdeploy.data.dataset import Dataset, DatasetFacts, Split
from irepdeploy.data.idx import read_idx
from irepdeploy.data.options import existing_folder, switch, whole
from irepdeploy.data.partition import cut_validation
from irepdeploy.data.pixels import Pixels
from irepdeploy.errors import InputError, MissingError

__all__ = ["FASHION_MNIST", "fashion_mnist"]

FASHION_MNIST = DatasetFacts(
    "fashion_mnist",
    (1, 28, 28),
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    # Mean and standard deviation of the 60,000 training images.
    (0.2860,),
    (0.3530,),
)
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_INSTALL = "sudo apt-get install dataset-fashion-mnist"
# Folders below `root` in which Debian and torchvision store the files.
_BELOW = (".", "fashion-mnist", "FashionMNIST/raw")
# SHA-256 of the unpacked files, because Debian compresses them again.
_DIGESTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def fashion_mnist(
    *,
    root: str | os.PathLike[str] | None = None,
    train: int | None = None,
    val: int = 5000,
    split_seed: int = 0,
    verify: bool = True,
) -> Dataset:
    """Load Fashion-MNIST into memory as bytes (47 MB).

    Args:
        root: Folder with the four IDX files, gzipped or not; None for that of the Debian package dataset-fashion-mnist.
        train: Number of training images; None for all images outside the search-validation set.
        val: Number of search-validation images, taken from the training set in proportion to the classes.
        split_seed: Seed of this split.
        verify: Require the published files; False accepts other files in this format, such as those of MNIST, and then
            names the classes 0 to 9.

    Raises:
        MissingError: `root` is None and the Debian package is not installed.
        InputError: Files are missing, damaged or not the published ones, or the split is impossible.
    """
    train = None if train is None else whole("train", train, 2)
    val, split_seed = whole("val", val, 1), whole("split_seed", split_seed, 0, 2**60)
    verify = switch("verify", verify)
    files = _find(root)
    pixels, labels = _read(files, "train", verify)
    others, held_out = cut_validation(labels, val, train, split_seed)

    def split(pixels: Tensor, labels: Tensor) -> Split:
        return Split(Pixels(pixels, FASHION_MNIST.mean, FASHION_MNIST.std), labels)

    classes = FASHION_MNIST.classes if verify else tuple(map(str, range(len(FASHION_MNIST.classes))))
    return Dataset(
        **{**vars(FASHION_MNIST), "classes": classes},
        train=split(pixels[others], labels[others]),
        val=split(pixels[held_out], labels[held_out]),
        load_test=lambda: split(*_read(files, "t10k", verify)),
    )


def _find(root: str | os.PathLike[str] | None) -> dict[str, Path]:
    """Return the path of each file by its published name."""
    if root is None and not _DEBIAN.is_dir():
        hint = f"{_INSTALL}, or data.root=DIR with the four IDX files"
        raise MissingError("Fashion-MNIST is not installed", where=_DEBIAN, hint=hint)
    folder = _DEBIAN if root is None else existing_folder(root)
    for below in _BELOW:
        found = {
            name: next((path for path in (folder / below / name, folder / below / f"{name}.gz") if path.exists()), None)
            for name in _DIGESTS
        }
        files = {name: path for name, path in found.items() if path is not None}
        if len(files) == len(_DIGESTS):
            return files
        if files:
            absent = ", ".join(f"{name}.gz" for name in _DIGESTS if name not in files)
            raise InputError(f"{absent} missing", where=folder / below, hint=_INSTALL)
    raise InputError(
        f"expected {', '.join(f'{name}.gz' for name in _DIGESTS)}",
        where=folder,
        hint=f"{_INSTALL} and leave out data.root, or download the files into this folder",
    )


def _read(files: dict[str, Path], part: str, verify: bool) -> tuple[Tensor, Tensor]:
    """Return the pixels (N, 1, 28, 28) uint8 and labels (N,) int64 of the part "train" or "t10k"."""
    names = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    images, labels = (
        read_idx(files[name], dimensions, sha256=_DIGESTS[name] if verify else None)
        for name, dimensions in zip(names, (3, 1), strict=True)
    )
    size = FASHION_MNIST.input_shape[1:]
    if images.shape[1:] != size:
        raise InputError(
            "expected images of {}x{} pixels, got {}x{}".format(*size, *images.shape[1:]), where=files[names[0]]
        )
    if len(images) != len(labels):
        raise InputError(f"{len(labels):,} labels for {len(images):,} images", where=files[names[1]])
    most = len(FASHION_MNIST.classes) - 1
    if int(labels.max()) > most:
        raise InputError(f"expected labels from 0 to {most}, got {int(labels.max())}", where=files[names[1]])
    return images.unsqueeze(1), labels.long()
