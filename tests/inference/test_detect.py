from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.cli import main
from irepdeploy.data.coco_files import write_objects
from irepdeploy.data.shapes import shapes
from irepdeploy.detect.decoding import DetectionRule
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.detector import Detector, Found
from irepdeploy.detect.facts import DetectorFacts
from irepdeploy.errors import InputError
from irepdeploy.inference import opened as opened_module
from irepdeploy.inference.detect import detections_of
from irepdeploy.inference.folder import DETECTIONS, detect_files, image_files
from irepdeploy.inference.opened import OpenedDetector, open_detector
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.origin import Origin, set_origin
from irepdeploy.verify.runners import network_runner

OBJECT = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}


class Bright(Detector):
    """Finds the box of the bright pixels of a grey image, as class 7."""

    head_names = ("one", "two", "three")
    classes, max_detections, stride, score_threshold = 10, 3, 4, 0.0

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Identity()
        self.scale = nn.Parameter(torch.ones(()))

    def loss(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return images * self.scale, images, images

    def decode(self, *heads: Tensor) -> Found:
        count = len(heads[0])
        boxes, scores = torch.zeros(count, 3, 4), torch.zeros(count, 3)
        number = torch.zeros(count, 1, dtype=torch.int32)
        for row, image in enumerate(heads[0][:, 0]):
            # 0 after normalization is the mean; only values far above it are bright.
            down, across = (image > 1.5).nonzero().unbind(1)
            if len(down):
                boxes[row, 0] = torch.stack([across.min(), down.min(), across.max() + 1, down.max() + 1]).float()
                scores[row, 0], number[row] = 0.9, 1
        return number, boxes, scores, torch.full((count, 3), 7, dtype=torch.int32)


@pytest.fixture
def bright() -> Iterator[OpenedDetector]:
    net = set_origin(Bright().eval(), Origin(input_shape=(1, 32, 48), dataset="shapes", output_names=("a", "b", "c")))
    with open_detector(net) as opened:
        yield opened


def with_square(width: int, height: int, box: tuple[int, int, int, int], mode: str = "L") -> Image.Image:
    image = Image.new(mode, (width, height))
    image.paste(255 if mode == "L" else (255, 255, 255), box)
    return image


@pytest.mark.parametrize(("width", "height"), [(48, 32), (96, 64), (100, 30), (24, 200)])
def test_boxes_return_to_the_pixels_of_the_image(bright: OpenedDetector, width: int, height: int) -> None:
    box = (width // 4, height // 4, width // 2, height * 3 // 4)
    found, times = detections_of(bright, with_square(width, height, box, "RGB"))
    scale = max(width / 48, height / 32)
    assert np.abs(found.boxes[0].numpy() - np.array(box)).max() <= max(1.0, 1.5 * scale)
    assert found.names[7] == "7" and found.labels.tolist() == [7] and min(vars(times).values()) >= 0


def test_an_image_may_come_as_a_file_an_array_or_pillow(bright: OpenedDetector, tmp_path: Path) -> None:
    image = with_square(48, 32, (8, 8, 20, 16))
    image.save(tmp_path / "a.png")
    results = [ird.detect(bright, given) for given in (image, np.asarray(image), tmp_path / "a.png")]
    assert all(torch.equal(result.boxes, torch.tensor([[8.0, 8, 20, 16]])) for result in results)
    assert results[0].draw().size == (384, 256) and results[0].to_coco(5)[0]["bbox"] == [8, 8, 12, 8]
    assert len(ird.detect(bright, image, score=0.95)) == 0
    with pytest.raises(InputError, match=r"image: expected a file, a Pillow image, or bytes"):
        ird.detect(bright, np.zeros((4, 4), np.float32))


def test_a_folder_gives_pictures_and_results_and_skips_what_is_broken(bright: OpenedDetector, tmp_path: Path) -> None:
    for name in ("b.png", "c.jpg"):
        with_square(48, 32, (8, 8, 24, 24), "RGB").save(tmp_path / name)
    Image.new("L", (48, 32)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"none")
    (tmp_path / "notes.txt").write_text("no image")
    files = image_files([tmp_path])
    assert [path.name for path in files] == ["a.png", "b.png", "broken.png", "c.jpg"]
    out = tmp_path / "out"
    out.mkdir()
    seen: list[str] = []
    result = detect_files(bright, files, out, score=0.3, report=seen.append)
    assert seen == ["a.png", "b.png", "broken.png", "c.jpg"] and list(result.broken) == [files[2]]
    assert [len(found) for found in result.found.values()] == [0, 1, 1] and len(result.times) == 3
    entries = json.loads((out / DETECTIONS).read_text())
    assert [(entry["image_id"], entry["file_name"], entry["category_id"]) for entry in entries] == [
        (2, "b.png", 8), (4, "c.jpg", 8),
    ]  # fmt: skip
    assert sorted(path.name for path in out.glob("*.png")) == ["a.png", "b.png", "c.png"]


def test_files_of_one_name_do_not_overwrite_each_other(bright: OpenedDetector, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.new("L", (48, 32)).save(tmp_path / folder / "a.png")
    result = detect_files(bright, image_files([tmp_path / "one", tmp_path / "two"]), tmp_path, score=0.3)
    assert [path.name for path in result.pictures] == ["a.png", "a-2.png"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of a small detector with random weights, and canvases with annotations."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    net = randomize_statistics(build_plain("centernet_vgg6")).eval()
    from dataclasses import replace

    set_origin(net, replace(net.irepdeploy_origin, dataset="shapes"))
    ird.save(net, folder / "best.pt")
    data = shapes(train=2, val=4)
    write_objects(folder / "samples", data.val, data, range(4))
    return folder / "best.pt", folder / "samples"


def test_the_command_prints_precision_times_and_what_was_skipped(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, samples = trained
    argv = ["detect", str(checkpoint), str(samples), "--out", str(tmp_path / "p"), "--score", "0.2"]
    assert main([*argv, "--annotations", str(samples / "annotations.json")]) == 0
    printed = capsys.readouterr().out
    assert "average precision over 4 images" in printed and "AP75" in printed and "per image: before" in printed
    entries = json.loads((tmp_path / "p" / DETECTIONS).read_text())
    # All detections, not only those that are drawn, with the ids of the annotations.
    assert len(entries) == 400 and {entry["image_id"] for entry in entries} == {1, 2, 3, 4}
    assert len(list((tmp_path / "p").glob("*.png"))) == 4
    (tmp_path / "broken.png").write_bytes(b"none")
    assert main(["detect", str(checkpoint), str(tmp_path / "broken.png"), "--out", str(tmp_path / "q")]) == 1
    captured = capsys.readouterr()
    assert "1 image of 1 skipped: not an image, or damaged" in captured.err and "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"categories": [{"id": 1, "name": "cat"}], "annotations": [OBJECT]},
            "10 classes of the detector, such as '0', are",
        ),
        (
            {"images": [{"id": 1, "file_name": "none.png", "width": 64, "height": 64}], "annotations": [OBJECT]},
            "no such image",
        ),
        (
            {"annotations": [{"image_id": 1, "category_id": 99, "bbox": [1, 1, 2, 2]}]},
            "category 99, which is not in the file",
        ),
        ({"annotations": []}, "no annotated object: average precision is undefined"),
    ],
)
def test_wrong_annotations_end_in_one_line(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], line: str
) -> None:
    checkpoint, samples = trained
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({**json.loads((samples / "annotations.json").read_text()), **change}))
    argv = ["detect", str(checkpoint), str(samples), "--annotations", str(path), "--out", str(tmp_path / "out")]
    assert main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and "\n" not in error


def test_what_is_no_detector_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="expected a detector, got a VGG"):
        open_detector(randomize_statistics(build_plain("vgg6")).eval())
    with pytest.raises(InputError, match=r"no model\.detections\.json next to it"):
        open_detector(tmp_path / "model.engine")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no image in this folder"):
        image_files([empty])
    with pytest.raises(InputError, match="no such image"):
        image_files([tmp_path / "none.jpg"])


def test_detections_of_other_outputs_are_refused() -> None:
    net = set_origin(Bright().eval(), Origin(input_shape=(1, 32, 48), output_names=("a", "b", "c")))
    facts = DetectorFacts.of(net, (1, 32, 48), (), (0.5,), (0.5,), DetectionRule("topk"))  # type: ignore[arg-type]
    opened = OpenedDetector("net", network_runner(net), facts)
    with opened, pytest.raises(InputError, match="expected num_dets, boxes, scores, classes, got a"):
        opened.infer(np.zeros((1, 32, 48), np.float32))
    assert isinstance(Detections.of_batch(*net.decode(torch.zeros(1, 1, 32, 48)))[0], Detections)
    assert opened_module.__all__
