"""Hugging Face data sets: saved ones, and ones in the cache by their name on the hub."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from irepdeploy.data import Augmentation, Dataset, Loader, dataset_facts, load_dataset, real_inputs
from irepdeploy.errors import InputError, MissingError
from irepdeploy.recipe import Recipe
from irepdeploy.search.supernet.builders import load_data
from support.dataset_files import write_class_folders


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("folders"))


def load(root: Path, name: str = "folders", **options: Any) -> Dataset:
    return load_dataset(name, **{"root": root, "val": 6, "size": 32, "workers": 0, **options})


def load_saved(folder: Path, **options: Any) -> Dataset:
    return load_dataset(f"hf:{folder}", **{"val": 6, "size": 32, "workers": 0, **options})


def batches_of(data: Dataset) -> list[Any]:
    augmentation = Augmentation(area=0.08, flip=True, cutout=8)
    return list(Loader(data.train, 5, torch.Generator().manual_seed(0), augmentation))


def same(one: Dataset, other: Dataset) -> bool:
    """Return whether both have the same images and labels in all parts."""
    parts = ((data.train, data.val, data.load_test()) for data in (one, other))
    return one.classes == other.classes and all(
        torch.equal(first.images[:], second.images[:]) and torch.equal(first.labels, second.labels)
        for first, second in zip(*parts, strict=True)
    )


def save(folder: Path, source: Path, *, test: str = "validation", **more: Any) -> Path:
    """The class folders of `source` as a saved DatasetDict."""
    datasets = pytest.importorskip("datasets")
    classes = sorted(path.name for path in (source / "train").iterdir())
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes), **more})
    splits = {}
    for name, part in (("train", "train"), (test, "val")):
        paths = sorted((source / part).rglob("*.JPEG"))
        columns: dict[str, Any] = {
            "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
            "label": [classes.index(path.parent.name) for path in paths],
        }
        columns.update(dict.fromkeys(more, columns["label"]))
        splits[name] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(splits).save_to_disk(str(folder))
    return folder


@pytest.mark.parametrize("test", ["validation", "test"])
def test_a_saved_data_set_gives_what_its_files_give(root: Path, tmp_path: Path, test: str) -> None:
    saved, plain = load(save(tmp_path / "saved", root, test=test)), load(root)
    assert saved.classes == plain.classes
    for one, other in zip(batches_of(saved), batches_of(plain), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert torch.equal(saved.val.images[:], plain.val.images[:])
    assert torch.equal(saved.load_test().images[:], plain.load_test().images[:])
    workers = load(tmp_path / "saved", workers=2)
    assert torch.equal(batches_of(workers)[3][0], batches_of(plain)[3][0])


def test_a_damaged_image_of_a_saved_data_set(root: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_class_folders(source, ["a", "b"])
    (source / "val" / "a" / "a_1.JPEG").write_bytes(b"torn")
    data = load(save(tmp_path / "saved", source))
    with pytest.raises(InputError, match=rf"{tmp_path}/saved, row 1 \(a_1.JPEG\): not an image"):
        data.load_test().images[:]


def test_saved_data_sets_that_are_none(root: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    with pytest.raises(InputError, match=r"one column of type ClassLabel, got .*data.options.label=NAME"):
        load(save(tmp_path / "two", root, other=datasets.ClassLabel(names=["a", "b", "c"])))
    with pytest.raises(InputError, match="expected splits train and validation, got train, exam"):
        load(save(tmp_path / "names", root, test="exam"))
    other = datasets.load_from_disk(str(save(tmp_path / "one", root)))
    names = datasets.ClassLabel(names=["a", "b", "c"])
    other["validation"] = other["validation"].cast_column("label", names)
    other.save_to_disk(str(tmp_path / "classes"))
    with pytest.raises(InputError, match="train and validation have different classes"):
        load(tmp_path / "classes")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(InputError, match="broken: not a data set"):
        load(broken)


def rewritten(folder: Path, out: Path, change: Callable[[Any], Any]) -> Path:
    """A saved data set with every split changed."""
    datasets = pytest.importorskip("datasets")
    splits = datasets.load_from_disk(str(folder))
    datasets.DatasetDict({name: change(rows) for name, rows in splits.items()}).save_to_disk(str(out))
    return out


def test_a_saved_data_set_by_its_own_name(root: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", root)
    data = load_saved(folder)
    assert same(data, load(root)) and data.name == f"hf:{folder}" and data.input_shape == (3, 32, 32)
    recipe = Recipe.model_validate(
        {"net": {"name": "x"}, "data": {"name": f"hf:{folder}", "options": {"val": 6, "size": 32, "workers": 0}}}
    )
    assert same(load_data(recipe), data)
    # A checkpoint names the data set; comparing outputs needs no files.
    assert dataset_facts(data.name) is None
    assert "photographs" in real_inputs((3, 8, 8), 2, data.name)[1]


def test_columns_that_are_named(root: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = save(tmp_path / "saved", root, fine=datasets.ClassLabel(names=["x", "y", "z"]))
    plain = load(root)
    with pytest.raises(
        InputError, match=r"one column of type ClassLabel, got image \(Image\), label .*options\.label="
    ):
        load_saved(folder)
    assert load_saved(folder, label="fine").classes == ("x", "y", "z")
    assert same(load_saved(folder, label="label", image="image"), plain)
    numbers = rewritten(folder, tmp_path / "numbers", lambda rows: rows.cast_column("fine", datasets.Value("int32")))
    found = load_saved(numbers, label="fine")
    assert found.classes == ("0", "1", "2") and torch.equal(found.train.labels, plain.train.labels)

    def texts(rows: Any) -> Any:
        names = [plain.classes[label] for label in rows["label"]]
        return rows.remove_columns(["label", "fine"]).add_column("name", names)

    assert same(load_saved(rewritten(folder, tmp_path / "texts", texts), label="name"), plain)
    for options, text in (
        ({"label": "none"}, r"unknown column 'none': it has image, label, fine"),
        ({"label": "image"}, r"expected labels in column 'image', got"),
        ({"label": "label", "image": "fine"}, r"'fine' to be a column of type Image, got .*options\.image=NAME"),
        ({"label": 3}, r"data option label: expected text, got 3"),
        ({"label": "label", "colour": 3}, "colour"),
    ):
        with pytest.raises(InputError, match=text):
            load_saved(folder, **options)


def test_labels_outside_the_classes(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = save(tmp_path / "saved", root)

    def with_labels(name: str, values: list[Any]) -> Path:
        def change(rows: Any) -> Any:
            short = rows.select(range(len(values))).remove_columns("label")
            return short.add_column("number", values)

        return rewritten(folder, tmp_path / name, change)

    for name, values in (("negative", [0, 1, -1]), ("huge", [0, 1, 10**9])):
        with pytest.raises(InputError, match=r"without a class|expected labels below 100,000"):
            load_saved(with_labels(name, values), label="number", val=1)


def cached(folder: Path, name: str, cache: Path, config: str = "default") -> None:
    """Put a saved data set into a cache as `datasets.load_dataset(name)` leaves it there."""
    datasets = pytest.importorskip("datasets")
    files = {}
    for split, rows in datasets.load_from_disk(str(folder)).items():
        files[split] = str(cache / f"{split}.parquet")
        cache.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(files[split])
    builder = datasets.load_dataset_builder("parquet", data_files=files, cache_dir=str(cache / "made"))
    place = cache / name.replace("/", "___") / config / "0.0.0" / "0123456789abcdef"
    builder.info.dataset_name, builder.info.config_name = name.rpartition("/")[2], config
    builder.dataset_name = name.rpartition("/")[2]
    builder.download_and_prepare(str(place))


def test_a_name_on_the_hub_is_read_from_the_cache(root: Path, tmp_path: Path) -> None:
    cached(save(tmp_path / "saved", root), "someone/clothes", tmp_path / "cache")
    found = load(tmp_path / "cache", "hf:someone/clothes")
    assert same(found, load(root)) and found.name == "hf:someone/clothes"
    assert same(load(tmp_path / "cache", "hf:someone/clothes", config="default"), found)
    for folder, options in ((tmp_path / "cache", {"config": "other"}), (tmp_path, {})):
        with pytest.raises(InputError, match=r"someone/clothes: not in the cache of `datasets`: .*load_dataset\("):
            load(folder, "hf:someone/clothes", **options)
    cached(tmp_path / "saved", "someone/clothes", tmp_path / "cache", config="large")
    with pytest.raises(InputError, match="multiple 'someone/clothes' configurations"):
        load(tmp_path / "cache", "hf:someone/clothes")


@pytest.mark.parametrize("name", ["", "../../etc", "a/b/c", "*", "some one", "/nowhere/at/all", "a'b"])
def test_names_that_are_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.name: expected a name such as ylecun/mnist"):
        load(tmp_path, f"hf:{name}")


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    for name in ("folders", f"hf:{tmp_path}", "hf:someone/clothes"):
        with pytest.raises(MissingError, match=r"requires the package datasets \(pip install irepdeploy\[data\]\)"):
            load(tmp_path, name)
    with pytest.raises(InputError, match="missing a required argument: 'val'"):
        load_dataset(f"hf:{tmp_path}")
