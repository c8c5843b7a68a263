"""Small data sets of noise in the exact published formats of CIFAR-10, Fashion-MNIST and ImageNet."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "cifar10_arrays",
    "pickle_of_python2",
    "write_cifar10",
    "write_class_folders",
    "write_fashion_mnist",
    "write_idx",
]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PYTHON_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


def cifar10_arrays(images: int = 20, seed: int = 0) -> dict[str, tuple[np.ndarray[Any, Any], list[int]]]:
    """Return pixels (images, 3072) uint8 of noise around a grey level of the class, and labels, by batch name."""
    random = np.random.default_rng(seed)
    arrays = {}
    for name in _PYTHON_BATCHES:
        labels = [int(label) for label in random.permutation(np.arange(images) % len(CIFAR10_CLASSES))]
        grey = 25 * np.array(labels)[:, None]
        arrays[name] = ((grey + random.integers(0, 25, (images, 3072))).astype(np.uint8), labels)
    return arrays


def write_cifar10(
    root: Path,
    form: str = "python",
    *,
    packed: bool = True,
    images: int = 20,
    seed: int = 0,
    protocol: int | None = None,
) -> Path:
    """Write CIFAR-10 with fewer images and return the path of the archive or folder.

    Args:
        form: "python" or "binary".
        packed: Write the published .tar.gz instead of the folder that it contains.
        images: Number of images in each of the six batches.
        protocol: Pickle protocol of Python 3. None: the bytes that Python 2 wrote.
    """
    files = {}
    for name, (pixels, labels) in cifar10_arrays(images, seed).items():
        if form == "binary":
            files[f"{name}.bin"] = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], 1).tobytes()
            continue
        batch = {
            b"batch_label": f"{name} of noise".encode(),
            b"labels": labels,
            b"data": pixels,
            b"filenames": [b"image_%d.png" % index for index in range(images)],
        }
        files[name] = _pickled(batch, protocol)
    names = [name.encode() for name in CIFAR10_CLASSES]
    if form == "binary":
        files["batches.meta.txt"] = b"\n".join(names) + b"\n\n"
    else:
        files["batches.meta"] = _pickled(
            {b"num_cases_per_batch": images, b"label_names": names, b"num_vis": 3072}, protocol
        )
    files["readme.html"] = b"<html></html>\n"
    folder = "cifar-10-batches-bin" if form == "binary" else "cifar-10-batches-py"
    if not packed:
        (root / folder).mkdir()
        for name, content in files.items():
            (root / folder / name).write_bytes(content)
        return root / folder
    path = root / f"cifar-10-{form}.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_class_folders(
    root: Path,
    classes: Sequence[str] = ("n01440764", "n01443537", "n01484850"),
    *,
    train: int = 8,
    test: int = 4,
    size: tuple[int, int] = (40, 48),
    seed: int = 0,
) -> Path:
    """Write train/CLASS/*.JPEG and val/CLASS/*.JPEG, noise around a colour of the class, and return `root`.

    Args:
        train, test: Number of images of each class.
        size: (height, width) of each image.
    """
    from PIL import Image

    random = np.random.default_rng(seed)
    for part, count in (("train", train), ("val", test)):
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            colour = 40 + 170 * np.array([label & 1, label >> 1 & 1, label >> 2 & 1])
            for index in range(count):
                pixels = (colour + random.integers(0, 40, (*size, 1))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}_{index}.JPEG", "JPEG", quality=95)
    return root


def write_idx(path: Path, array: np.ndarray[Any, Any]) -> Path:
    """Write a uint8 array as an IDX file, gzipped if its name ends in .gz."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def write_fashion_mnist(root: Path, *, train: int = 60, test: int = 20, packed: bool = True, seed: int = 0) -> Path:
    """Write the files of Fashion-MNIST with fewer images, noise around a grey level of the class; return `root`."""
    random = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        labels = random.permutation(np.arange(count) % 10)
        images = 25 * labels[:, None, None] + random.integers(0, 25, (count, 28, 28))
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            write_idx(root / f"{part}-{name}-ubyte{'.gz' if packed else ''}", array)
    return root


def _pickled(value: dict[bytes, Any], protocol: int | None) -> bytes:
    if protocol is None:
        return pickle_of_python2(value)
    return pickle.dumps({key.decode(): item for key, item in value.items()}, protocol=protocol)


def pickle_of_python2(value: Any) -> bytes:
    """Return the bytes of Python 2's `cPickle.dumps(value, 2)`, apart from its memo; its text is bytes in Python 3."""
    return b"\x80\x02" + _written(value) + b"."


def _written(value: Any) -> bytes:
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, bytes):
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, list):
        return b"](" + b"".join(map(_written, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_written(key) + _written(item) for key, item in value.items()) + b"u"
    assert isinstance(value, np.ndarray) and value.dtype == np.uint8
    made = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _written(0) + b"\x85" + _written(b"b") + b"\x87R"
    )
    order = b"(" + _written(3) + _written(b"|") + b"NNN" + _written(-1) * 2 + _written(0) + b"tb"
    kind = b"cnumpy\ndtype\n" + _written(b"u1") + _written(0) + _written(1) + b"\x87R" + order
    shape = b"(" + b"".join(map(_written, value.shape)) + b"t"
    return made + b"(" + _written(1) + shape + kind + b"\x89" + _written(value.tobytes()) + b"tb"
