"""Inputs for comparisons: which ones are gathered and which are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from irepdeploy.errors import InputError
from irepdeploy.verify.input_files import read_inputs
from irepdeploy.verify.inputs import gather_inputs

SHAPE = (1, 16, 16)


def array(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "dataset", "real", "name"),
    [
        ((1, 16, 16), "digits", 64, "data set digits"),
        ((3, 32, 64), None, 64, "photographs"),
        ((3, 64, 65), None, 8, "photographs"),
        ((1, 64, 256), None, 8, "photographs"),
        ((1, 64, 257), None, 2, "photographs"),
    ],
)
def test_random_and_real_inputs_are_fewer_where_they_are_larger(
    shape: tuple[int, ...], dataset: str | None, real: int, name: str
) -> None:
    random, others = gather_inputs(shape, dataset=dataset, seed=3)
    assert random.array.shape == (min(8, real), *shape) and random.seed == 3
    assert others.array.shape == (real, *shape) and others.name.startswith(name)
    assert {group.array.dtype.name for group in (random, others)} == {"float32"}
    assert len({image.tobytes() for image in others.array}) == real
    again = gather_inputs(shape, dataset=dataset, seed=3)
    assert all(np.array_equal(a.array, b.array) for a, b in zip((random, others), again, strict=True))
    assert not np.array_equal(gather_inputs(shape, dataset=dataset, seed=4)[0].array, random.array)


def test_given_arrays_stand_in_the_place_of_real_ones(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array(5, *SHAPE))
    assert [len(group.array) for group in gather_inputs(SHAPE, given=tmp_path / "x.npy")] == [8, 5]
    groups = gather_inputs(SHAPE, given=array(*SHAPE))
    assert np.array_equal(groups[1].array, array(*SHAPE)[None])


def test_a_folder_of_arrays_and_images(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array(2, *SHAPE))
    Image.fromarray(np.full((40, 30, 3), 255, np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "notes.txt").write_text("not an input")
    group = read_inputs(tmp_path, SHAPE)
    assert group.array.shape == (3, *SHAPE) and "(x - 0.45) / 0.25" in group.name
    assert np.allclose(group.array[2], (1 - 0.45) / 0.25)
    as_digits = read_inputs(tmp_path / "b.png", SHAPE, "digits").array
    assert np.allclose(as_digits, (1 - 0.305) / 0.35)


def test_256_are_taken_and_that_is_reported(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array(300, 1, 2, 2))
    group = read_inputs(tmp_path / "x.npy")
    assert len(group.array) == 256 and "the first 256" in group.name


def test_class_folders_are_read_in_turn(tmp_path: Path) -> None:
    for name, count in (("a", 2), ("b", 1), ("c", 300)):
        (tmp_path / name).mkdir()
        for index in range(count):
            np.save(tmp_path / name / f"{index:03}.npy", np.full((1, 2, 2), ord(name) + index, np.float32))
    group = read_inputs(tmp_path)
    assert group.array[:5, 0, 0, 0].tolist() == [ord("a"), ord("b"), ord("c"), ord("a") + 1, ord("c") + 1]
    assert len(group.array) == 256 and "the first 256" in group.name
    np.save(tmp_path / "own.npy", array(1, 1, 2, 2))
    assert len(read_inputs(tmp_path).array) == 1


def refused(tmp_path: Path, content: bytes, name: str = "x.npy") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def saved(tmp_path: Path, value: np.ndarray) -> Path:
    np.save(tmp_path / "x.npy", value)
    return tmp_path / "x.npy"


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    for value, named in (
        (array(2, 3, 16, 16), r"expected shape \(N, 1, 16, 16\), got \(2, 3, 16, 16\)"),
        (array(16, 16), "shape"),
        (array(0, *SHAPE), "no input"),
        (array(2, *SHAPE, dtype="float64"), "expected dtype float32, got float64"),
        (array(2, *SHAPE, dtype="uint8"), "expected dtype float32, got uint8"),
        (np.full((2, *SHAPE), np.nan, np.float32), "NaN"),
        (np.float32(1.0), "shape"),
    ):
        with pytest.raises(InputError, match=named):
            read_inputs(saved(tmp_path, np.asarray(value)), SHAPE)


def test_files_that_are_no_arrays(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (pytest.exit, ("the file ran code",))

    whole = saved(tmp_path, array(4, *SHAPE)).read_bytes()
    np.savez(tmp_path / "several.npz", a=array(1), b=array(2))
    zipped = (tmp_path / "several.npz").read_bytes()
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([Bomb()], dtype=object), allow_pickle=True)
    for content in (
        b"",
        b"garbage",
        whole[: len(whole) // 2],
        whole[:40],
        zipped,
        pickle.dumps(Bomb()),
        objects.read_bytes(),
    ):
        with pytest.raises(InputError, match=r"x\.npy"):
            read_inputs(refused(tmp_path, content), SHAPE)
    for content in (b"", b"garbage", b"\x89PNG\r\n\x1a\n" + b"0" * 40):
        with pytest.raises(InputError, match=r"x\.png"):
            read_inputs(refused(tmp_path, content, "x.png"), SHAPE)


def test_places_without_inputs(tmp_path: Path) -> None:
    for path, named in (
        (tmp_path / "no.npy", "no such file"),
        (tmp_path, "no .npy file, .npz file or image"),
        (refused(tmp_path, b"", "x.txt"), "expected a .npy or .npz file or an image"),
    ):
        with pytest.raises(InputError, match=named):
            read_inputs(path, SHAPE)


def test_no_photographs_of_feature_maps() -> None:
    (random,) = gather_inputs((5, 8, 8))
    assert random.array.shape == (64, 5, 8, 8) and random.name == "random, standard normal"
    _, photographs = gather_inputs((12, 9, 3))
    assert photographs.array.shape == (64, 12, 9, 3) and photographs.name.startswith("photographs")
