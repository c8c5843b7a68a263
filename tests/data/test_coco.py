from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from irepdeploy.data.coco import coco
from irepdeploy.data.coco_annotations import read_coco
from irepdeploy.data.coco_files import write_objects
from irepdeploy.data.shapes import SHAPES, shapes
from irepdeploy.detect.coco_metric import average_precision
from irepdeploy.detect.detections import Detections
from irepdeploy.errors import InputError

# Ids with gaps and out of order, as in COCO.
CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 13, "name": "stop sign"}]
SIZES = {42: (80, 60), 7: (64, 64), 1000: (50, 90), 9: (31, 200), 12: (70, 70)}


def annotation(number: int, image: int, category: int, box: list[float], **more: Any) -> dict[str, Any]:
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, **more}
    return {"area": box[2] * box[3] * 0.7, "segmentation": [[0, 0, 1, 1, 1, 0]], **entry}


def content() -> dict[str, Any]:
    """Return annotations with all unusual cases of COCO."""
    images = [
        {"id": number, "file_name": f"{number:012d}.jpg", "width": width, "height": height, "license": 3}
        for number, (width, height) in SIZES.items()
    ]
    rle = {"segmentation": {"counts": [10, 20, 2670], "size": [64, 64]}, "iscrowd": 1}
    objects = [
        annotation(1, 42, 13, [10.5, 20.25, 30, 15.5]),
        annotation(2, 42, 90, [0, 0, 80, 60]),
        annotation(3, 42, 1, [5, 5, 0, 10]),  # without width
        annotation(4, 42, 1, [100, 100, 10, 10]),  # outside
        annotation(5, 42, 1, [70, 50, 30, 30]),  # across the border
        annotation(6, 42, 1, [70, 50, 3, 3], area=0),
        annotation(7, 7, 1, [1, 2, 40, 50], **rle),  # only a crowd
        annotation(8, 1000, 1, [1, 2, 40, 50]),
        annotation(9, 1000, 1, [20, 2, 30, 50], **rle),
        annotation(10, 9, 1, [1, 2, 20, 50]),  # in an image that is 31 pixels wide
    ]  # 12 has no annotation
    return {"info": {}, "licenses": [], "images": images, "annotations": objects, "categories": CATEGORIES}


def archive(root: Path) -> Path:
    """Write a data set in COCO's layout; one file is grey, one CMYK, one has an EXIF orientation."""
    (root / "annotations").mkdir(parents=True)
    for part in ("train2017", "val2017"):
        (root / part).mkdir()
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content()))
        for number, mode in zip(SIZES, ("RGB", "L", "RGB", "RGB", "CMYK"), strict=True):
            width, height = SIZES[number]
            pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
            exif = Image.Exif()
            exif[0x0112] = 6
            image = Image.fromarray(pixels).convert(mode)
            image.save(root / part / f"{number:012d}.jpg", quality=95, exif=exif if number == 42 else Image.Exif())
    return root


def test_everything_that_pycocotools_counts_is_kept(tmp_path: Path) -> None:
    found = read_coco(archive(tmp_path) / "annotations" / "instances_val2017.json")
    assert found.classes == ("person", "stop sign", "toothbrush") and found.category_ids == (1, 13, 90)
    assert [target.image_id for target in found.targets] == list(SIZES) and len(found) == 5
    first = found.targets[0]
    assert first.size == (60, 80) and first.labels.tolist() == [1, 2, 0, 0, 0, 0]
    assert first.boxes[0].tolist() == [10.5, 20.25, 40.5, 35.75] and first.boxes.dtype == torch.float64
    assert first.areas is not None and first.areas[0] == pytest.approx(30 * 15.5 * 0.7)
    assert found.targets[1].crowd.tolist() == [True] and found.targets[2].crowd.tolist() == [False, True]
    assert len(found.targets[4]) == 0


def test_training_leaves_out_what_mmdetection_does(tmp_path: Path) -> None:
    found = read_coco(archive(tmp_path) / "annotations" / "instances_train2017.json").trainable(32)
    assert [target.image_id for target in found.targets] == [42, 1000]
    assert found.files == ("000000000042.jpg", "000000001000.jpg")
    assert found.targets[0].labels.tolist() == [1, 2, 0]
    # The box across the border is not cut.
    assert found.targets[0].boxes[2].tolist() == [70, 50, 100, 80]
    assert found.targets[1].crowd.tolist() == [False, True]


def test_images_are_resized_and_boxes_with_them(tmp_path: Path) -> None:
    archive(tmp_path)
    with pytest.raises(InputError, match=r"val=1 and train=all others do not fit: the training set has 2 images"):
        coco(root=tmp_path, height=64, width=96, val=1)
    test = coco_of(tmp_path, height=64, width=96).load_test()
    assert len(test) == 5
    image, target = test[0]
    # 80x60 becomes 85x64: the scale of x is 85 / 80, not 64 / 60.
    assert image.shape == (3, 64, 85) and image.dtype == torch.float32
    assert target.boxes[0].tolist() == pytest.approx([10.5 * 85 / 80, 20.25 * 64 / 60, 40.5 * 85 / 80, 35.75 * 64 / 60])
    assert target.boxes.dtype == torch.float32 and target.size == (60, 80)
    for place in (1, 4):
        grey, _ = test[place]
        assert grey.shape[0] == 3 and torch.isfinite(grey).all()


def test_images_are_scored_as_they_are_or_in_a_turned_frame(tmp_path: Path) -> None:
    archive(tmp_path)
    data = coco_of(tmp_path, height=64, width=96, turn=True, resize_test=False)
    assert [data.load_test()[place][0].shape[1:] for place in (0, 2)] == [(60, 80), (90, 50)]
    shapes_of = {data.train[place][1].image_id: data.train[place][0].shape[1:] for place in range(2)}
    shapes_of |= {data.val[0][1].image_id: None}
    # Upright, 50x90 fits into 64x96, not into 96x64.
    assert shapes_of.get(1000, (96, 53)) in (None, (96, 53)) and set(shapes_of) == {42, 1000, 12}
    assert dict(zip((42, 1000, 12), (False, True, False), strict=True)) == {
        target.image_id: upright
        for part in (data.train, data.val)
        for target, upright in zip(part.annotations.targets, part.upright, strict=True)
    }
    pixels, target = data.train.raw(0)
    assert pixels.dtype == torch.uint8 and pixels.shape[1:] == target.size and target.scale == (1.0, 1.0)
    with pytest.raises(InputError, match="data option turn: expected true or false, got 1"):
        coco_of(tmp_path, turn=1)


def test_boxes_return_to_the_original_image(tmp_path: Path) -> None:
    archive(tmp_path)
    found = read_coco(tmp_path / "annotations" / "instances_val2017.json")
    test = coco_of(tmp_path, height=64, width=96).load_test()
    _, moved = test[0]
    boxes, back = moved.original(torch.cat([moved.boxes, torch.tensor([[-9.0, -9, 999, 999]])]))
    stored = found.targets[0]
    assert torch.allclose(back.boxes, stored.boxes.float(), atol=1e-4) and back.scale == (1.0, 1.0)
    assert torch.allclose(back.areas, stored.areas.float(), rtol=1e-5)
    assert boxes[-1].tolist() == [0, 0, 80, 60] and torch.allclose(boxes[0], stored.boxes[0].float(), atol=1e-4)


def coco_of(root: Path, **options: Any) -> Any:
    """Open the archive with enough images in the training set."""
    path = root / "annotations" / "instances_train2017.json"
    value = json.loads(path.read_text())
    value["annotations"].append(annotation(11, 12, 1, [1, 1, 30, 30]))
    path.write_text(json.dumps(value))
    return coco(root=root, val=1, **options)


def test_search_validation_is_cut_from_the_training_set(tmp_path: Path) -> None:
    data = coco_of(archive(tmp_path))
    ids = [{part[index][1].image_id for index in range(len(part))} for part in (data.train, data.val)]
    assert len(ids[0]) == 2 and len(ids[1]) == 1 and ids[0] | ids[1] == {42, 1000, 12}
    assert data.classes == ("person", "stop sign", "toothbrush") and data.input_shape == (3, 512, 512)


def test_objects_fed_back_give_full_precision_through_the_files(tmp_path: Path) -> None:
    found = read_coco(archive(tmp_path) / "annotations" / "instances_val2017.json")
    perfect = [Detections(t.boxes, torch.ones(len(t)), t.labels) for t in found.targets]
    # A box of width 0 overlaps nothing, but still counts.
    assert 0.6 < average_precision(perfect, found.targets).ap < 1


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    data = shapes(train=2, val=5)
    path = write_objects(tmp_path / "samples", data.val, data, [4, 0], prefix="canvas")
    found = read_coco(path)
    assert found.files == ("canvas-000005.png", "canvas-000001.png") and found.classes == SHAPES.classes
    for place, target in zip((4, 0), found.targets, strict=True):
        assert torch.equal(target.boxes.float(), data.val[place][1].boxes)
        assert torch.equal(target.labels, data.val[place][1].labels)
    pixels = np.asarray(Image.open(tmp_path / "samples" / "canvas-000005.png"))
    assert np.array_equal(pixels, data.val.images.values[4, 0].numpy())  # type: ignore[attr-defined]


def changed(**fields: Any) -> dict[str, Any]:
    return {**content(), **fields}


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ([], "not annotations of COCO"),
        ({"images": []}, "annotations is missing; categories is missing"),
        (changed(images=[]), "no image"),
        (changed(categories=[], annotations=[]), "no category"),
        (changed(images=content()["images"] * 2), "an id of an image occurs twice"),
        (changed(categories=CATEGORIES * 2), "a category id occurs twice"),
        (
            changed(annotations=[annotation(1, 42, 91, [1, 1, 1, 1])]),
            "annotation 0 refers to category 91, which is not in the file",
        ),
        (
            changed(annotations=[annotation(1, 43, 90, [1, 1, 1, 1])]),
            "annotation 0 refers to image 43, which is not in the file",
        ),
        (
            changed(annotations=[annotation(1, 42, 90, [1, 1, 1, 1], bbox=[1, 2, 3])]),
            r"annotations.0.bbox.3 is m",
        ),
        (changed(annotations=[annotation(1, 42, 90, [1, 1, 1, 1], bbox="x")]), r"annotations.0.bbox: expected"),
    ],
)
def test_wrong_annotations_are_named_in_one_line(tmp_path: Path, value: Any, line: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=line) as raised:
        read_coco(path)
    assert "\n" not in raised.value.line and raised.value.where == str(path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    root = archive(tmp_path)
    (root / "val2017" / "000000000007.jpg").write_bytes(b"no image")
    (root / "val2017" / "000000000009.jpg").unlink()
    data = coco_of(root)
    with pytest.raises(InputError, match=r"000000000009.jpg: no such image \(1 image of 5 missing\)"):
        data.load_test()
    Image.new("RGB", (5, 5)).save(root / "val2017" / "000000000009.jpg")
    test = data.load_test()
    with pytest.raises(InputError, match=r"000000000007.jpg: not an image, or damaged"):
        test[1]
    with pytest.raises(InputError, match=r"000000000009.jpg: an image of 5x5, annotated as 31x200"):
        test[3]
    (root / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(InputError, match=r"instances_val2017.json: not JSON"):
        data.load_test()
    with pytest.raises(InputError, match="no such folder"):
        coco(root=root / "nowhere")
    with pytest.raises(InputError, match=r"instances_train2014.json: no such file of annotations"):
        coco(root=root, year=2014)


def test_nothing_to_train_on_is_told(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(changed(annotations=[])))
    with pytest.raises(InputError, match="no image with an object to train on"):
        read_coco(path).trainable(32)
