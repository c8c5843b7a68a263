"""Small CIFAR-10 archives in the exact published formats are read, checked and split; pickles never run code."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import tarfile
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from irepdeploy.data import Dataset, Split, array_pickle, load_dataset
from irepdeploy.data import cifar10 as module
from irepdeploy.data.archive import Published
from irepdeploy.data.array_pickle import read_array_pickle
from irepdeploy.data.partition import cut_validation
from irepdeploy.errors import InputError
from support.dataset_files import CIFAR10_CLASSES, cifar10_arrays, pickle_of_python2, write_cifar10

FORMS = [("python", True), ("python", False), ("binary", True), ("binary", False)]
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset("cifar10", root=root, **{"val": 20, "verify": False, **options})


def pixels_of(split: Split) -> torch.Tensor:
    return split.images.values


@pytest.mark.parametrize(("form", "packed"), FORMS)
def test_every_image_is_read_as_it_was_written(tmp_path: Path, form: str, packed: bool) -> None:
    write_cifar10(tmp_path, form, packed=packed)
    data = load(tmp_path)
    assert (len(data.train), len(data.val), len(data.load_test())) == (80, 20, 20)
    assert data.classes == CIFAR10_CLASSES
    arrays = cifar10_arrays()
    expected = {(pixels.tobytes(), label) for name in TRAIN for pixels, label in zip(*arrays[name], strict=True)}
    found = [
        (pixels.contiguous().numpy().tobytes(), int(label))
        for split in (data.train, data.val)
        for pixels, label in zip(pixels_of(split), split.labels, strict=True)
    ]
    assert len(found) == 100 and set(found) == expected
    test, labels = arrays["test_batch"]
    assert np.array_equal(pixels_of(data.load_test()).reshape(20, -1).numpy(), test)
    assert data.load_test().labels.tolist() == labels


def test_images_are_normalized_and_channels_last(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    data = load(tmp_path)
    images = data.val.images[:5]
    assert images.dtype == torch.float32 and images.shape == (5, 3, 32, 32) == (5, *data.input_shape)
    assert images.is_contiguous(memory_format=torch.channels_last)
    expected = (pixels_of(data.val)[:5].double() / 255 - torch.tensor(data.mean).view(-1, 1, 1).double()) / (
        torch.tensor(data.std).view(-1, 1, 1).double()
    )
    assert torch.allclose(images.double(), expected, atol=1e-5)
    assert torch.equal(images[[3, 0]], data.val.images[torch.tensor([3, 0])])


@pytest.mark.parametrize("protocol", [None, 2, 3, 4, 5])
def test_pickles_of_every_protocol(tmp_path: Path, protocol: int | None) -> None:
    write_cifar10(tmp_path, packed=False, protocol=protocol)
    assert len(load(tmp_path).train) == 80


def test_generated_pickles_are_real_ones() -> None:
    array = np.arange(600, dtype=np.uint8).reshape(2, 300)
    value = {b"data": array, b"labels": [3, -1], b"name": b"x" * 300}
    found = pickle.loads(pickle_of_python2(value), encoding="bytes")
    assert np.array_equal(found.pop(b"data"), array)
    assert found == {b"labels": [3, -1], b"name": b"x" * 300}


def test_root_may_be_the_archive_or_its_folder(tmp_path: Path) -> None:
    packed, folder = write_cifar10(tmp_path), write_cifar10(tmp_path, packed=False)
    for root in (packed, folder, str(folder)):
        assert torch.equal(load(root).train.labels, load(tmp_path).train.labels)
    folder.rename(tmp_path / "renamed")
    assert len(load(tmp_path / "renamed").train) == 80


# The search-validation set.


def test_the_cut_is_disjoint_seeded_and_class_by_class(tmp_path: Path) -> None:
    write_cifar10(tmp_path, images=40)
    data = load(tmp_path, val=50)
    assert torch.bincount(data.val.labels).tolist() == [5] * 10
    assert torch.bincount(data.train.labels).tolist() == [15] * 10
    assert torch.equal(load(tmp_path, val=50).val.labels, data.val.labels)
    assert torch.equal(load(tmp_path, val=50, train=30).val.images[:], data.val.images[:])
    other = load(tmp_path, val=50, split_seed=1)
    assert not torch.equal(pixels_of(other.val), pixels_of(data.val))
    few = load(tmp_path, val=7, train=12)
    assert (len(few.train), len(few.val)) == (12, 7)
    assert all(1 <= count <= 2 for count in torch.bincount(few.train.labels, minlength=10))


@pytest.mark.parametrize(
    ("sizes", "val", "expected"),
    [((8, 5, 3), 5, [2, 2, 1]), ((8, 5, 3), 1, [1, 0, 0]), ((1, 1, 14), 8, [1, 0, 7]), ((0, 10, 6), 8, [0, 5, 3])],
)
def test_classes_of_unequal_sizes(sizes: tuple[int, ...], val: int, expected: list[int]) -> None:
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    train, held_out = cut_validation(labels, val)
    assert torch.bincount(labels[held_out], minlength=3).tolist() == expected
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(16))
    few, same = cut_validation(labels, val, train=4)
    assert len(few) == 4 and set(few.tolist()) <= set(train.tolist()) and torch.equal(same, held_out)


def test_the_cut_does_not_depend_on_the_format(tmp_path: Path) -> None:
    splits = []
    for form, packed in FORMS:
        root = tmp_path / f"{form}{packed}"
        root.mkdir()
        write_cifar10(root, form, packed=packed)
        splits.append(pixels_of(load(root).val))
    assert all(torch.equal(split, splits[0]) for split in splits)


@pytest.mark.parametrize("packed", [True, False])
def test_the_test_set_is_read_when_asked_for(tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, packed=packed)
    read: list[str] = []
    original = module.Archive.read

    def recorded(archive: Any, names: Any) -> dict[str, bytes]:
        names = list(names)
        read.extend(names)
        return original(archive, names)

    monkeypatch.setattr(module.Archive, "read", recorded)
    data = load(tmp_path)
    assert "data_batch_5" in read and "test_batch" not in read
    data.load_test()
    assert read.count("test_batch") == 1


# Invalid files.


def published(root: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> Published:
    """Pretend that the small files of this format, in folder and archive, are the published ones."""
    name = form.upper()
    original: Published = getattr(module, name)
    packed, folder = write_cifar10(root, form), write_cifar10(root, form, packed=False)
    contents = {file: (folder / file).read_bytes() for file in original.files}
    files = {
        file: None if original.files[file] is None else (len(content), hashlib.md5(content).hexdigest())
        for file, content in contents.items()
    }
    content = packed.read_bytes()
    small = replace(original, size=len(content), md5=hashlib.md5(content).hexdigest(), files=files)
    monkeypatch.setattr(module, name, small)
    return small


def remove_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("form", ["python", "binary"])
def test_published_files_pass(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = published(tmp_path, form, monkeypatch)
    assert len(load(tmp_path, verify=True).load_test()) == 20
    remove_folder(tmp_path / small.folder)
    assert len(load(tmp_path, verify=True).load_test()) == 20


@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda content: content[:-10], "truncated"),
        (lambda content: content + b"x", "not the published file: expected [0-9,]+ bytes"),
        (lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:], "MD5"),
        (lambda content: b"", "truncated"),
    ],
)
def test_damage_is_found_and_named(
    tmp_path: Path,
    form: str,
    packed: bool,
    damage: Callable[[bytes], bytes],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = published(tmp_path, form, monkeypatch)
    if packed:
        remove_folder(tmp_path / small.folder)
    path = tmp_path / small.archive if packed else tmp_path / small.folder / list(small.files)[2]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: .*{text}.*verify=false") as caught:
        load(tmp_path, verify=True)
    assert caught.value.exit_code == 2


def test_a_damaged_test_batch_is_found_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = published(tmp_path, "binary", monkeypatch)
    path = tmp_path / small.folder / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    data = load(tmp_path, verify=True)
    with pytest.raises(InputError, match=r"test_batch\.bin: .*MD5"):
        data.load_test()


@pytest.mark.parametrize(("form", "packed"), FORMS)
def test_the_published_digests_are_asked_for_by_default(tmp_path: Path, form: str, packed: bool) -> None:
    write_cifar10(tmp_path, form, packed=packed)
    with pytest.raises(InputError, match=r"expected (170|31|30),\d+,\d+ bytes.*verify=false"):
        load_dataset("cifar10", root=tmp_path, val=20)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_missing_or_renamed_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_cifar10(tmp_path, packed=False)
    (folder / name).rename(folder / "other")
    with pytest.raises(InputError, match=f"{folder}: {name} missing.*found batches.meta|{name} missing"):
        load(tmp_path)


def test_a_file_missing_in_the_archive_is_named(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path, packed=False)
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(folder / "data_batch_2", "elsewhere/data_batch_2")
        (folder / "data_batch_2").unlink()
        archive.add(folder, folder.name)
    remove_folder(folder)
    with pytest.raises(InputError, match=r"cifar-10-python\.tar\.gz: data_batch_2 missing"):
        load(tmp_path)


def test_a_renamed_archive_is_listed(tmp_path: Path) -> None:
    write_cifar10(tmp_path).rename(tmp_path / "cifar.tgz")
    with pytest.raises(InputError, match=r"expected cifar-10-python\.tar\.gz.*found cifar\.tgz.*data\.root=DIR"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"cifar\.tgz: expected cifar"):
        load(tmp_path / "cifar.tgz")


def test_an_empty_and_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found nothing"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"no such folder.*data\.root=DIR"):
        load(tmp_path / "away")
    for root in (None, 5, ""):
        with pytest.raises(InputError, match=r"data\.root"):
            load(root)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'root'.*data\.root=DIR"):
        load_dataset("cifar10")


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\x00torn"])
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"tar\.gz: "):
        load(tmp_path)


def test_a_torn_archive_of_ones_own(tmp_path: Path) -> None:
    path = write_cifar10(tmp_path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(InputError, match=r"tar\.gz: truncated or damaged"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2]}, "a label each"),
        ({"data": np.zeros((4, 3071), np.uint8), "labels": [0, 1, 2, 3]}, "rows of 3072"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 10]}, "0 to 9"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, -1]}, "0 to 9"),
        ({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 1.5]}, "0 to 9"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, "rows of 3072"),
        ({"data": np.zeros((4, 3072), np.float32), "labels": [0] * 4}, "uint8"),
        ({"data": np.array([{}, 1], dtype=object), "labels": [0] * 2}, "pickle of arrays"),
        ({"labels": [0]}, "rows of 3072"),
        ({"data": np.zeros((4, 3072), np.uint8)}, "a label each"),
        ([1, 2], "expected a dictionary"),
    ],
)
def test_batches_that_are_none(tmp_path: Path, batch: Any, text: str) -> None:
    folder = write_cifar10(tmp_path, packed=False)
    (folder / "data_batch_4").write_bytes(pickle.dumps(batch, protocol=4))
    with pytest.raises(InputError, match=f"data_batch_4: .*{text}"):
        load(tmp_path)


def test_binary_batches_that_are_none(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path, "binary", packed=False)
    content = (folder / "data_batch_4.bin").read_bytes()
    for changed, text in ((content[:-1], "expected a multiple of"), (b"\x0a" + content[1:], "0 to 9"), (b"", "rows")):
        (folder / "data_batch_4.bin").write_bytes(changed)
        with pytest.raises(InputError, match=rf"data_batch_4\.bin: .*{text}"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"val": 0}, "val"),
        ({"val": "20"}, "val"),
        ({"val": True}, "val"),
        ({"train": 1}, "train"),
        ({"val": 99}, "val"),
        ({"train": 81}, "train"),
        ({"split_seed": -1}, "split_seed"),
        ({"verify": 0}, "verify"),
        ({"colour": 1}, "colour"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any], key: str) -> None:
    write_cifar10(tmp_path, packed=False)
    with pytest.raises(InputError, match=key):
        load(tmp_path, **options)


def test_the_published_files_are_named_as_they_are() -> None:
    for form in (module.PYTHON, module.BINARY):
        assert len(form.files) == 7
        digests = [form.md5, *(entry[1] for entry in form.files.values() if entry)]
        assert len(set(digests)) == len(digests) >= 7
        assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in digests)
    assert {entry[0] for entry in module.BINARY.files.values() if entry} == {10_000 * 3073}


# Pickles run nothing.


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["top", "value", "key", "array"])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, protocol: int, place: str) -> None:
    trap = tmp_path / "trap"
    bad = Runs(trap)
    value: Any = {"top": bad, "value": {"data": bad}, "key": {(bad,): 1}, "array": {"data": np.array([bad])}}[place]
    content = pickle.dumps(value, protocol=protocol)
    folder = write_cifar10(tmp_path, packed=False)
    (folder / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match=r"data_batch_1: not a pickle of arrays: .*mkdir"):
        load(tmp_path)
    assert not trap.exists()
    with pytest.raises(FileExistsError):  # the trap works
        pickle.loads(content)
        pickle.loads(content)


@pytest.mark.parametrize(
    "program",
    [
        b"cbuiltins\neval\n(V1\ntR.",
        b"c__builtin__\ngetattr\n.",
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x15ndarray.__reduce__.x.y\x93.",
        b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.tofile\x93.",
        b"iposix\nsystem\n.",
        b"Pname\n.",
        b"\x80\x02\x82\x01.",
    ],
)
def test_programs_that_name_anything_else_are_refused(program: bytes) -> None:
    with pytest.raises(InputError, match="not a pickle of arrays"):
        read_array_pickle(program, "file")


def test_a_small_pickle_of_many_values_is_refused() -> None:
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    with pytest.raises(InputError, match="more values than bytes"):
        read_array_pickle(pickle.dumps({"data": value}), "file")


def test_a_large_index_takes_no_memory() -> None:
    tracemalloc.start()
    try:
        assert read_array_pickle(b"\x80\x02}r\x00\x00\x00\x10.", "file") == {}
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cut", [0, 1, 2, 10, 50, 200, 3000])
def test_a_torn_pickle(cut: int) -> None:
    content = pickle_of_python2({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1]})
    assert read_array_pickle(content, "file")["labels"] == [1]
    with pytest.raises(InputError, match="file: not a pickle of arrays"):
        read_array_pickle(content[:cut], "file")


def test_bytes_never_become_pointers() -> None:
    """An array whose type says object while its data are bytes is what could crash NumPy itself."""
    content = pickle_of_python2({b"data": np.zeros((1, 16), np.uint8)})
    for letter in (b"O8", b"O", b"f4", b"i8", b"S1", b"V1"):
        changed = content.replace(b"U\x02u1", b"U" + bytes([len(letter)]) + letter)
        assert changed != content
        with pytest.raises(InputError, match="uint8"):
            read_array_pickle(changed, "file")


@pytest.mark.parametrize("name", ["numpy\nndarray", "numpy\ndtype", "numpy.core.multiarray\n_reconstruct"])
def test_what_a_pickle_sets_does_not_stay(name: str) -> None:
    """A pickle may set attributes of its stand-ins, so the next one gets new stand-ins."""
    program = f"c{name}\nN}}X\x04\x00\x00\x00seenI1\ns\x86b.".encode("latin-1")
    found = []
    for _ in range(2):
        with suppress(TypeError):
            found.append(array_pickle._Unpickler(program).load())
        with suppress(TypeError):
            found.append(array_pickle._Unpickler(f"c{name}\n.".encode()).load())
    assert len({id(one) for one in found}) == len(found) >= 2
    assert not hasattr(found[-1], "seen")
