"""Class folders as labelled inputs for int8."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from irepdeploy.cli import main
from irepdeploy.data.imagenet import folders
from irepdeploy.export.precision import calibration
from irepdeploy.export.precision.calibration import calibration_data
from irepdeploy.verify.certificate import Certificate
from irepdeploy.verify.input_files import read_inputs
from irepdeploy.verify.samples import Inputs
from support.dataset_files import write_class_folders
from support.graph_writer import onnx_model

SHAPE = (3, 32, 32)
CLASSES = ("ant", "bee", "cat", "dog")
Run = Callable[[Inputs], dict[str, np.ndarray]]


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


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_folders_with_the_names_of_classes_are_labels(images: Path, order: list[int]) -> None:
    run = nearest(templates(images, "folders")[order])
    found = calibration_data(
        SHAPE, given=images, dataset="folders", classes=[CLASSES[place] for place in order], run=run
    )
    assert (found.calibration.count, found.evaluation.count, found.notes) == (10, 30, ())
    assert isinstance(found.labels, np.ndarray)
    assert (run(found.evaluation.array)["scores"].argmax(1) == found.labels).all()
    # Every class is in both parts, and no image is in both.
    assert set(found.labels) == set(run(found.calibration.array)["scores"].argmax(1)) == {0, 1, 2, 3}
    assert not any(np.array_equal(a, b) for a in found.calibration.array for b in found.evaluation.array)


def test_a_class_without_images_is_missing(images: Path, tmp_path: Path) -> None:
    for name in CLASSES[1:]:
        (tmp_path / name).symlink_to(images / name)
    (tmp_path / ".thumbnails").symlink_to(images / "ant")
    run = nearest(templates(images, "folders"))
    found = calibration_data(SHAPE, given=tmp_path, dataset="folders", classes=CLASSES, run=run)
    assert isinstance(found.labels, np.ndarray) and set(found.labels) == {1, 2, 3}


def test_unknown_classes_have_the_order_of_the_folders(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = templates(images, None)
    found = calibration_data(SHAPE, given=images, run=nearest(colours))
    assert isinstance(found.labels, np.ndarray) and found.evaluation.count == 30
    for order, remark in (
        ([1, 2, 3, 0], "the float32 network predicts the class of only 0 % of the images"),
        ([0, 1, 2], "there are 4 folders, and 3 scores"),
    ):
        other = calibration_data(SHAPE, given=images, run=nearest(colours[order]))
        assert other.labels is None and other.notes == (f"the class folders are not used as labels: {remark}",)
        assert other.evaluation is other.calibration and other.calibration.count == 40
    # Fewer images than folders would be read at this limit, but all folders count.
    monkeypatch.setattr(calibration, "_FEW", 18)
    monkeypatch.setattr(calibration, "_BYTES", 1)
    few = calibration_data(SHAPE, given=images, run=nearest(colours))
    assert few.evaluation.count == 18 - 4 and few.labels is not None


def test_what_are_no_classes(images: Path, tmp_path: Path) -> None:
    run = nearest(templates(images, "folders"))
    for name in (*CLASSES, "emu"):
        (tmp_path / name).symlink_to(images / "ant")
    found = calibration_data(SHAPE, given=tmp_path, dataset="folders", classes=CLASSES, run=run)
    assert found.labels is None
    assert found.notes == ("the class folders are not used as labels: 'emu' is not a class of the network",)
    # One folder, arrays in folders, maps instead of scores, or no network to run.
    np.save(tmp_path / "x.npy", np.zeros((20, *SHAPE), np.float32))
    maps: Run = lambda inputs: {"y": np.asarray(inputs)}  # noqa: E731
    for given, other in ((images / "ant", run), (tmp_path, run), (images, maps), (images, None)):
        plain = calibration_data(SHAPE, given=given, dataset="folders", classes=CLASSES, run=other)
        assert plain.labels is None and not any("folders" in note for note in plain.notes)


def test_images_are_cropped_as_in_training(images: Path, tmp_path: Path) -> None:
    split = folders(root=images.parent, val=4, size=32).load_test()
    trained = split.images[:].numpy()
    for dataset in ("folders", "imagenet", "hf:some/name"):
        group = read_inputs(images.parent / "val" / "ant", SHAPE, dataset)
        assert np.allclose(group.array, trained[: group.count], atol=1e-6) and "cropped and normalized" in group.name
    resized = read_inputs(images.parent / "val" / "ant", SHAPE)
    assert "cropped" not in resized.name and not np.allclose(resized.array, trained[: resized.count], atol=0.1)
    # Images of the network's size were not resized in training either.
    own = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(own).save(tmp_path / "own.png")
    found = read_inputs(tmp_path / "own.png", SHAPE, "folders").array[0]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert np.allclose(found.transpose(1, 2, 0), (own / 255 - mean) / std, atol=1e-5)


def test_an_export_measures_accuracy_on_class_folders(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = templates(images, None)
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
    onnx.save(onnx_model(nodes, {"x": (1, *SHAPE)}, {"y": (1, 4)}, weights), tmp_path / "m.onnx")
    out = ["--precision", "fp32,int8", "--inputs", str(images), "--out", str(tmp_path / "o")]
    assert main(["export", str(tmp_path / "m.onnx"), *out]) == 0
    found = Certificate.load(tmp_path / "o/certificate.json").precisions["int8"]
    assert found["accuracy"]["float32"] == 100 and found["measured_on"]["labels"]
    assert (found["calibration"]["count"], found["measured_on"]["count"]) == (10, 30)
    assert math.isclose(found["drop"], 100 - found["accuracy"]["int8"])
    assert f"(100.00 to {found['accuracy']['int8']:.2f} %), cosine" in capsys.readouterr().out
