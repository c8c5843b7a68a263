"""Class folders as labelled images for int8."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from irepdeploy.cli import main
from irepdeploy.data.imagenet import folders
from irepdeploy.errors import InputError
from irepdeploy.export.precision import labelled_folders as module
from irepdeploy.export.precision.calibration import CalibrationData, calibration_data
from irepdeploy.export.precision.labelled_folders import Classifier
from irepdeploy.verify.certificate import Certificate
from irepdeploy.verify.input_files import read_inputs
from irepdeploy.verify.samples import Inputs
from support.dataset_files import write_class_folders
from support.graph_writer import onnx_model

SHAPE = (3, 32, 32)
CLASSES = ("ant", "bee", "cat", "dog")
Run = Callable[[Inputs], dict[str, np.ndarray]]
# A budget that 30 images can show.
BUDGET = 4.0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four class folders of ten images each, told apart by their colour."""
    return write_class_folders(tmp_path_factory.mktemp("images"), CLASSES, train=10) / "train"


def templates(images: Path, dataset: str | None) -> np.ndarray:
    """Return the mean colour (4, 3) of each class as the network sees it."""
    means = [read_inputs(images / name, SHAPE, dataset).array.mean((0, 2, 3)) for name in CLASSES]
    return np.stack(means).astype(np.float32)


def nearest(colours: np.ndarray) -> Run:
    """Return a network that scores images by the distance to these colours."""

    def run(inputs: Inputs) -> dict[str, np.ndarray]:
        return {"scores": -((np.asarray(inputs).mean((2, 3))[:, None] - colours) ** 2).sum(2)}

    return run


def of(given: Path, run: Run, classes: Sequence[str] = (), scores: int = 4, **options: Any) -> CalibrationData:
    options = {"dataset": "folders" if classes else None, "max_drop": BUDGET, **options}
    return calibration_data(SHAPE, given=given, classifier=Classifier(classes, scores, run), **options)


def linked(folder: Path, images: Path, names: dict[str, str]) -> Path:
    """Fill `folder` with links to class folders under other names."""
    for name, source in names.items():
        (folder / name).symlink_to(images / source)
    return folder


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_folders_with_the_names_of_classes_are_labels(images: Path, order: list[int]) -> None:
    run = nearest(templates(images, "folders")[order])
    found = of(images, run, [CLASSES[place] for place in order])
    assert (found.calibration.count, found.evaluation.count, found.notes) == (10, 30, ())
    assert isinstance(found.labels, np.ndarray)
    assert (run(found.evaluation.array)["scores"].argmax(1) == found.labels).all()
    # Every class is in both parts, and no image is in both.
    assert set(found.labels) == set(run(found.calibration.array)["scores"].argmax(1)) == {0, 1, 2, 3}
    assert not any(np.array_equal(a, b) for a in found.calibration.array for b in found.evaluation.array)
    assert found.evaluation.name.startswith(f"30 images of {images}, images cropped and normalized as (x - [0.485")


def test_names_are_labels_even_if_the_network_is_wrong_or_a_class_is_missing(images: Path, tmp_path: Path) -> None:
    linked(tmp_path, images, {name: name for name in CLASSES[1:]} | {".thumbnails": "ant"})
    wrong = nearest(templates(images, "folders")[[1, 2, 3, 0]])
    found = of(tmp_path, wrong, CLASSES, max_drop=5)
    assert isinstance(found.labels, np.ndarray) and set(found.labels) == {1, 2, 3} and found.notes == ()


def test_accents_in_names_may_be_written_in_two_ways(images: Path, tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "bée") for form in ("NFC", "NFD"))
    linked(tmp_path, images, {decomposed: "bee", "ant": "ant", "cat": "cat"})
    found = of(tmp_path, nearest(np.zeros((3, 3), np.float32)), ["ant", composed, "cat"], scores=3, max_drop=5)
    assert isinstance(found.labels, np.ndarray) and set(found.labels) == {0, 1, 2}


def test_unknown_classes_have_the_order_of_the_folders(images: Path, tmp_path: Path) -> None:
    colours = templates(images, None)
    found = of(images, nearest(colours))
    assert isinstance(found.labels, np.ndarray) and found.evaluation.count == 30
    assert found.notes == ("the class folders are assumed to be in the order of the scores",)
    for order, reason in (
        ([1, 2, 3, 0], "the float32 network predicts other classes than the order of their names suggests"),
        ([0, 2, 3, 1], "the float32 network predicts other classes than the order of their names suggests"),
        ([0, 1, 2], "there are 4 folders, and 3 scores"),
    ):
        other = of(images, nearest(colours[order]), scores=len(order))
        assert other.labels is None and other.notes == (f"the class folders are not used as labels: {reason}",)
        assert other.evaluation is other.calibration and other.calibration.count == 40


def test_folders_named_by_numbers_have_the_order_of_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        for index in range(8):
            pixels = 20 * np.array([number, 12 - number, number % 3]) + random.integers(0, 8, (8, 8, 1))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / str(number) / f"{index}.png")
    colours = np.stack([read_inputs(tmp_path / str(number), SHAPE).array.mean((0, 2, 3)) for number in range(12)])
    found = of(tmp_path, nearest(colours), scores=12)
    assert isinstance(found.labels, np.ndarray) and set(found.labels) == set(range(12))
    # The order of the alphabet is 0, 1, 10, 11, 2, ...: two of twelve classes fit.
    text = sorted(range(12), key=str)
    assert of(tmp_path, nearest(colours[text]), scores=12).labels is None


def test_what_are_no_classes(images: Path, tmp_path: Path) -> None:
    run = nearest(templates(images, "folders"))
    linked(tmp_path, images, dict.fromkeys((*CLASSES, "emu", "doh"), "ant"))
    found = of(tmp_path, run, CLASSES)
    assert found.labels is None
    not_used = "the class folders are not used as labels"
    assert found.notes[0] == f"{not_used}: 'doh' is not a class of the network (did you mean dog?)"
    twice = of(images, run, [*CLASSES[:3], "cat"])
    assert twice.notes[0] == f"{not_used}: two classes have the name 'cat'"
    # One folder, arrays in folders, or images beside folders.
    np.save(tmp_path / "x.npy", np.zeros((20, *SHAPE), np.float32))
    for given in (images / "ant", tmp_path):
        plain = of(given, run, CLASSES)
        assert plain.labels is None and not any("class folders" in note for note in plain.notes)
    assert " without the folders in it" in read_inputs(tmp_path, SHAPE).name
    unknown = calibration_data(SHAPE, given=images, dataset="folders")
    assert unknown.labels is None and unknown.notes == ()


def test_too_few_images_for_the_budget(images: Path) -> None:
    run = nearest(templates(images, "folders"))
    found = of(images, run, CLASSES, max_drop=0.5)
    reason = "40 images cannot show a loss of 0.5 points, 267 can"
    assert found.labels is None and found.notes == (f"the class folders are not used as labels: {reason}",)
    # Each image counts if none may be lost.
    assert of(images, run, CLASSES, max_drop=0).labels is not None


def test_images_are_spread_over_classes(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked(tmp_path, images, {f"{number:02}": CLASSES[number % 4] for number in range(40)})
    monkeypatch.setattr(module, "_BYTES", 1)
    monkeypatch.setattr(module, "_LEAST", 20)
    found = of(tmp_path, nearest(np.zeros((40, 3), np.float32)), [f"{number:02}" for number in range(40)], 40)
    assert isinstance(found.labels, np.ndarray)
    assert (found.calibration.count, found.evaluation.count) == (8, 12)
    assert found.labels.min() < 8 and found.labels.max() > 31 and len(set(found.labels)) == 12


def test_images_are_cropped_as_in_training(images: Path, tmp_path: Path) -> None:
    trained = folders(root=images.parent, val=4, size=32).load_test().images[:].numpy()
    for dataset in ("folders", "imagenet", "hf:some/name"):
        group = read_inputs(images.parent / "val" / "ant", SHAPE, dataset)
        assert np.allclose(group.array, trained[: group.count], atol=1e-6) and "cropped and normalized" in group.name
    resized = read_inputs(images.parent / "val" / "ant", SHAPE)
    assert "cropped" not in resized.name and not np.allclose(resized.array, trained[: resized.count], atol=0.1)


def test_images_of_the_size_of_the_input(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path, ["a", "b"], size=(32, 32))
    for dataset, options in (("folders", {}), ("imagenet", {"size": 32})):
        trained = folders(root=root, val=4, **options).load_test().images[:].numpy()
        found = read_inputs(root / "val" / "a", SHAPE, dataset)
        assert np.allclose(found.array, trained[: found.count], atol=1e-6)


def test_other_images_than_those_of_the_data_set(images: Path) -> None:
    grey = read_inputs(images / "ant", (1, 28, 28), "imagenet")
    assert grey.array.shape == (10, 1, 28, 28) and "(x - 0.45) / 0.25" in grey.name


def test_folders_of_class_folders(images: Path) -> None:
    with pytest.raises(InputError, match=r"no \.npy file.* \(give one of its folders, such as .*train\)"):
        read_inputs(images.parent, SHAPE)


@pytest.mark.parametrize("named", [True, False])
def test_an_export_measures_accuracy_on_class_folders(
    named: bool, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that names its classes may have them in any order."""
    order = [2, 0, 3, 1] if named else [0, 1, 2, 3]
    colours = templates(images, None)[order]
    weights = {
        "w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1),
        "v": 2 * colours,
        "b": -(colours**2).sum(1),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v", "b"], ["y"], "fc", transB=1),
    ]
    model = onnx_model(nodes, {"x": (1, *SHAPE)}, {"y": (1, 4)}, weights)
    if named:
        entry = model.metadata_props.add()
        entry.key, entry.value = "irepdeploy.classes", json.dumps([CLASSES[place] for place in order])
    onnx.save(model, tmp_path / "m.onnx")
    out = ["--precision", "fp32,int8", "--inputs", str(images), "--max-drop", str(BUDGET), "--out", str(tmp_path / "o")]
    assert main(["export", str(tmp_path / "m.onnx"), *out]) == 0
    found = Certificate.load(tmp_path / "o/certificate.json").precisions["int8"]
    assert found["accuracy"]["float32"] == 100 and found["measured_on"]["labels"]
    assert (found["calibration"]["count"], found["measured_on"]["count"]) == (10, 30)
    assert math.isclose(found["drop"], 100 - found["accuracy"]["int8"])
    assert any("assumed" in note for note in found["notes"]) != named
    assert f"(100.00 to {found['accuracy']['int8']:.2f} %), cosine" in capsys.readouterr().out
