"""Fashion-MNIST: the real files where they are installed, and small ones in the same format, whole and damaged."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irepdeploy.data import Dataset, Loader, Split, load_dataset
from irepdeploy.data import fashion_mnist as module
from irepdeploy.errors import InputError, MissingError
from support.dataset_files import write_fashion_mnist, write_idx

TRAIN, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset("fashion_mnist", root=root, **{"val": 20, "verify": False, **options})


def read(path: Path) -> np.ndarray[Any, Any]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    sizes = struct.unpack_from(f">{content[3]}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes)


def pairs(*splits: Split) -> list[tuple[bytes, int]]:
    return [
        (pixels.numpy().tobytes(), int(label))
        for split in splits
        for pixels, label in zip(split.images.values, split.labels, strict=True)  # type: ignore[attr-defined]
    ]


def test_the_real_files(requires_debian: Callable[[str, str], str]) -> None:
    folder = Path(requires_debian("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"))
    data = load_dataset("fashion_mnist", train=200, val=10000)
    test = data.load_test()
    assert [len(part) for part in (data.train, data.val, test)] == [200, 10000, 10000]
    assert torch.bincount(data.val.labels).tolist() == torch.bincount(test.labels).tolist() == [1000] * 10
    assert data.classes[9] == "Ankle boot" and data.input_shape == data.train.images[:2].shape[1:] == (1, 28, 28)
    images, labels = read(folder / TRAIN), read(folder / LABELS)
    # The published first training image is an ankle boot.
    assert labels[0] == 9
    published = set(zip((image.tobytes() for image in images), labels.tolist(), strict=True))
    assert {*pairs(data.train, data.val)} <= published
    assert images.mean() / 255 == pytest.approx(data.mean[0], abs=1e-4)
    assert (images / 255).std() == pytest.approx(data.std[0], abs=1e-4)
    assert float(test.images[:].std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_every_image_is_read_as_it_was_written(tmp_path: Path, packed: bool, below: str) -> None:
    folder = write_fashion_mnist(tmp_path / below, packed=packed)
    data = load(tmp_path)
    assert (len(data.train), len(data.val), len(data.load_test())) == (40, 20, 20)
    suffix = ".gz" if packed else ""
    for part, splits in (("train", (data.train, data.val)), ("t10k", (data.load_test(),))):
        images = read(folder / f"{part}-images-idx3-ubyte{suffix}")
        labels = read(folder / f"{part}-labels-idx1-ubyte{suffix}")
        written = [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]
        assert sorted(pairs(*splits)) == sorted(written)
    assert torch.bincount(data.val.labels).tolist() == [2] * 10
    # Files of another origin do not get the names of clothes.
    assert data.classes == tuple("0123456789")


def test_the_cut_is_seeded_and_loads(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    assert pairs(load(tmp_path).val) == pairs(load(tmp_path, train=10).val) != pairs(load(tmp_path, split_seed=1).val)
    images, labels = next(iter(Loader(load(tmp_path, train=10).train, 10, torch.Generator())))
    assert images.shape == (10, 1, 28, 28) and images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64


def test_what_to_type_where_the_files_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DEBIAN", tmp_path / "none")
    with pytest.raises(
        MissingError, match=r"none: .*not installed \(sudo apt-get install dataset-fashion-mnist, or data"
    ):
        load_dataset("fashion_mnist")
    with pytest.raises(InputError, match=r"expected train-images-idx3-ubyte\.gz, .*\(sudo apt-get install"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"nowhere: no such folder .*data\.root=DIR"):
        load(tmp_path / "nowhere")
    write_fashion_mnist(tmp_path)
    (tmp_path / LABELS).unlink()
    with pytest.raises(InputError, match=rf"{LABELS} missing"):
        load(tmp_path)


def test_other_files_than_the_published_ones_are_told(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    with pytest.raises(InputError, match=rf"{TRAIN}: damaged, or not the published file: .*SHA-256 .*verify=false"):
        load(tmp_path, verify=True)


def header(*sizes: int, kind: int = 8, zeros: bytes = b"\0\0") -> bytes:
    return zeros + bytes([kind, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)


IMAGES = bytes(60 * 28 * 28)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (TRAIN, b"", "truncated in its header"),
        (TRAIN, gzip.compress(header(60, 28, 28) + IMAGES)[:-20], "truncated or damaged"),
        (TRAIN, b"\x1f\x8b\x08" + bytes(40), "truncated or damaged"),
        (TRAIN, header(60, 28, 28) + IMAGES, "truncated or damaged: Not a gzipped file"),
        (TRAIN, gzip.compress(b"\0\0\x08"), "truncated in its header"),
        (TRAIN, gzip.compress(header(60, 28, 28)[:9]), "truncated in its header"),
        (TRAIN, gzip.compress(b"PK" + header(60, 28, 28)[2:] + IMAGES), "not an IDX file"),
        (TRAIN, gzip.compress(header(60, 28, 28, kind=13) + IMAGES), "bytes in 3 dimensions, got type 0x0d in 3"),
        (TRAIN, gzip.compress(header(60) + bytes(60)), "in 3 dimensions, got type 0x08 in 1.*swapped"),
        (LABELS, gzip.compress(header(60, 28, 28) + IMAGES), "in 1 dimension, got type 0x08 in 3.*swapped"),
        (TRAIN, gzip.compress(header(60, 28, 28) + IMAGES[:-1]), "truncated: expected 47,040 bytes .*, got 47,039"),
        (TRAIN, gzip.compress(header(60, 28, 28) + IMAGES + b"x"), "more bytes than its header announces"),
        (TRAIN, gzip.compress(header(0, 28, 28)), "contains no values: its sizes are 0x28x28"),
        (TRAIN, gzip.compress(header(60, 14, 56) + IMAGES), "expected images of 28x28 pixels, got 14x56"),
        (TRAIN, gzip.compress(header(2**32 - 1, 2**32 - 1, 2**32 - 1)), "announces more than .* of values"),
        (LABELS, gzip.compress(header(59) + bytes(59)), "59 labels for 60 images"),
        (LABELS, gzip.compress(header(60) + bytes(59) + b"\x0a"), "expected labels from 0 to 9, got 10"),
    ],
)
def test_damaged_and_hostile_files(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    write_fashion_mnist(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: .*({text})") as caught:
        load(tmp_path)
    assert caught.value.exit_code == 2 and len(caught.value.line) < 400


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    bomb = gzip.compress(header(60, 28, 28) + bytes(200 << 20), 9)
    (tmp_path / TRAIN).write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(InputError, match="more bytes than its header announces"):
        load(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20 << 20


def test_a_damaged_test_set_is_found_when_it_is_opened(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.full(20, 200))
    data = load(tmp_path)
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte\.gz: expected labels from 0 to 9, got 200"):
        data.load_test()
