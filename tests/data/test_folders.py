"""Class folders: listed, checked, decoded by any number of processes."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from irepdeploy.data import Augmentation, Dataset, Loader, in_order, load_dataset
from irepdeploy.data import imagenet as module
from irepdeploy.data.decoding import decode_image
from irepdeploy.data.folders import ClassFolders
from irepdeploy.errors import InputError, RunError
from support.dataset_files import write_class_folders

ALL = Augmentation(area=0.08, flip=True, cutout=8)
STRONG = Augmentation(area=0.08, flip=True, randaugment=2, saturation=0.4, hue=0.1, erase=0.5, mixup=0.2, cutmix=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("folders"))


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset("folders", root=root, **{"val": 6, "size": 32, "workers": 0, **options})


def path_of(images: Any, index: int) -> str:
    return images.source.open(int(images.indices[index]))


# Listing.


def test_every_image_is_in_one_part_under_its_class(root: Path) -> None:
    data = load(root)
    assert data.classes == ("n01440764", "n01443537", "n01484850")
    assert data.input_shape == (3, 32, 32) and data.name == "folders"
    parts = [data.train, data.val, data.load_test()]
    assert [len(part) for part in parts] == [18, 6, 12]
    paths = [path_of(part.images, index) for part in parts for index in range(len(part))]
    assert sorted(paths) == sorted(str(path) for path in root.rglob("*.JPEG"))
    for part in parts:
        for index, label in enumerate(part.labels.tolist()):
            assert Path(path_of(part.images, index)).parent.name == data.classes[label]
    assert torch.bincount(data.val.labels).tolist() == [2, 2, 2]
    assert all("/train/" in path for path in paths[:24]) and all("/val/" in path for path in paths[24:])


def test_val_and_test_folders(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ["a", "b"])
    write_class_folders(tmp_path / "other", ["a", "b"], train=1, test=3, seed=1)
    # Images without labels, as in ImageNet's.
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.JPEG").write_bytes(b"")
    assert [len(part) for part in (load(tmp_path).val, load(tmp_path).load_test())] == [6, 8]
    (tmp_path / "test" / "c.JPEG").unlink()
    (tmp_path / "test").rmdir()
    (tmp_path / "other" / "val").rename(tmp_path / "test")
    data = load(tmp_path, val=None)
    parts = {"train": data.train, "val": data.val, "test": data.load_test()}
    assert [len(part) for part in parts.values()] == [16, 8, 6]
    for name, part in parts.items():
        assert {Path(path_of(part.images, index)).parts[-3] for index in range(len(part))} == {name}
        for index, label in enumerate(part.labels.tolist()):
            assert Path(path_of(part.images, index)).parent.name == "ab"[label]
    assert [len(load(tmp_path, val=None, train=6).train), len(load(tmp_path, val=None, train=6).val)] == [6, 8]
    with pytest.raises(InputError, match="data option val: val/ holds these images, and test/ others"):
        load(tmp_path)
    # One of the two is the test set, whatever its name.
    (tmp_path / "val").rename(tmp_path / "elsewhere")
    data = load(tmp_path)
    assert [len(part) for part in (data.train, data.val, data.load_test())] == [10, 6, 6]
    with pytest.raises(InputError, match="data option val: expected a number of images of train/"):
        load(tmp_path, val=None)


@pytest.mark.parametrize("place", ["train", ""])
def test_a_test_set_is_split_off(place: str, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "made", ["a", "b", "c"], train=10)
    root = tmp_path / "root"
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "made" / "train").rename(root / place)

    def paths(part: Any) -> set[str]:
        return {path_of(part.images, index) for index in range(len(part))}

    data = load(root, val=6, test=0.2)
    parts = [data.train, data.val, data.load_test()]
    assert [torch.bincount(part.labels).tolist() for part in parts] == [[6] * 3, [2] * 3, [2] * 3]
    assert len(set.union(*map(paths, parts))) == 30 and data.note.startswith("the test set is 6 of the 30 images")
    for part in parts:
        for index, label in enumerate(part.labels.tolist()):
            assert Path(path_of(part.images, index)).parent.name == "abc"[label]
    # The search-validation set may change, but never the test set.
    for other in (load(root, val=3, test=6, split_seed=5), load(root, train=4, test=0.2)):
        assert paths(other.load_test()) == paths(parts[2]) and paths(other.val).isdisjoint(paths(parts[2]))
    for wrong in (0, 1.0, -0.5, 30, True, "0.2", None):
        with pytest.raises(InputError, match=r"data option test|data\.options\.test=0\.2|must contain"):
            load(root, test=wrong)
    with pytest.raises(InputError, match="no image of class a is left to train on"):
        load(root, test=29, val=1)
    (tmp_path / "made" / "val").rename(root / "test")
    with pytest.raises(InputError, match="data option test: test/ is the test set"):
        load(root, test=0.2)


def test_an_image_that_is_removed_moves_no_other_into_the_test_set(tmp_path: Path) -> None:
    made = write_class_folders(tmp_path, ["a", "b", "c"], train=10)

    def tested() -> set[str]:
        part = load(made / "train", val=3, test=0.2).load_test()
        return {path_of(part.images, index) for index in range(len(part))}

    before = tested()
    gone = sorted(set(map(str, (made / "train").rglob("*.JPEG"))) - before)
    for path in (gone[0], gone[-1]):
        Path(path).unlink()
        assert tested() == before
    Path(min(before)).unlink()
    assert before - tested() == {min(before)} and len(tested() - before) <= 1


def test_a_class_named_train(tmp_path: Path) -> None:
    root = write_class_folders(tmp_path, ["bus", "car", "train"], train=10) / "train"
    data = load(root, val=3, test=2)
    assert data.classes == ("bus", "car", "train") and len(data.load_test()) == 2
    assert data.note.endswith("; it has no image of train")
    with pytest.raises(InputError, match=r"no train/ with class folders \(data\.options\.test=0\.2 splits"):
        load(root)
    # Beside val/, it would be a training set without classes.
    (root / "bus").rename(root / "val")
    with pytest.raises(InputError, match="data option test: val/ is the test set"):
        load(root, test=2)


def test_the_cut_is_seeded(root: Path) -> None:
    def names(**options: Any) -> list[int]:
        return load(root, **options).val.images.indices.tolist()

    assert names() == names(train=4) != names(split_seed=1)
    assert len(load(root, train=4).train) == 4


def test_names_in_any_writing(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ["Käfer", "ハト", "two words"], train=3, test=1)
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "Käfer" / "notes.txt").write_text("no image")
    data = load(tmp_path, val=3)
    assert data.classes == tuple(sorted(["Käfer", "ハト", "two words"]))
    assert len(data.train) + len(data.val) == 9
    assert data.train.images[:].shape == (6, 3, 32, 32)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root: (root / "train").rename(root / "training"), r"train: no such folder.*data\.root=DIR"),
        (lambda root: (root / "val").rename(root / "valid"), r"val: no such folder"),
        (lambda root: (root / "val" / "a").rename(root / "val" / "x"), r"val/a: class folder missing, and 1 more"),
        (lambda root: (root / "val" / "x").mkdir(), r"val/x: class folder is not in the training set"),
        (lambda root: (root / "train" / "x").mkdir(), r"train/x: contains no images"),
        (lambda root: [file.unlink() for file in (root / "val" / "a").iterdir()], r"val/a: contains no images"),
        (
            lambda root: [path.rename(root / path.name) for path in (root / "train").iterdir()],
            r"train: contains no class folders",
        ),
    ],
)
def test_folders_that_are_not_right(tmp_path: Path, change: Any, text: str) -> None:
    write_class_folders(tmp_path, ["a", "b"])
    change(tmp_path)
    with pytest.raises(InputError, match=text) as caught:
        load(tmp_path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "key"),
    [({"val": 0}, "val"), ({"size": 4}, "size"), ({"workers": -1}, "workers"), ({"val": 23}, "val"), ({"v": 1}, "'v'")],
)
def test_options_that_do_not_fit(root: Path, options: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=key):
        load(root, **options)


def test_imagenet_is_checked_by_its_numbers(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"3 classes of 1,000, 24 training images of 1,281,167, 12 .*verify=false"):
        load_dataset("imagenet", root=root, val=6)
    assert len(load_dataset("imagenet", root=root, val=6, verify=False).train) == 18
    monkeypatch.setattr(module, "_CLASSES", 3)
    monkeypatch.setattr(module, "_TRAIN", 24)
    monkeypatch.setattr(module, "_TEST", 12)
    assert load_dataset("imagenet", root=root, val=6).classes[0] == "n01440764"
    for name in ("_CLASSES", "_TRAIN", "_TEST"):
        with monkeypatch.context() as patch, pytest.raises(InputError, match="incomplete ImageNet-1K"):
            patch.setattr(module, name, getattr(module, name) + 1)
            load_dataset("imagenet", root=root, val=6)
    write_class_folders(tmp_path, ["n01440764", "n1", "n01484850"])
    with pytest.raises(InputError, match=r"train/n1: .*WordNet number"):
        load_dataset("imagenet", root=tmp_path, val=6)


# Decoding.


def encoded(pixels: np.ndarray[Any, Any], form: str = "PNG", mode: str | None = None) -> io.BytesIO:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, form)
    file.seek(0)
    return file


def gradient(height: int, width: int) -> np.ndarray[Any, Any]:
    """Red grows to the right, green downwards: where a pixel was is read from its colour."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None, :]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return pixels


def region(pixels: np.ndarray[Any, Any]) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the visible part of a gradient, as shares of its sides."""
    shares = pixels.astype(float) / 255
    half = (shares[:, -1, 0] - shares[:, 0, 0]).mean() / (len(pixels) - 1) / 2
    tall = (shares[-1, :, 1] - shares[0, :, 1]).mean() / (len(pixels) - 1) / 2
    return (
        shares[:, 0, 0].mean() - half,
        shares[0, :, 1].mean() - tall,
        shares[:, -1, 0].mean() + half,
        shares[-1, :, 1].mean() + tall,
    )


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (300, 500), (900, 700), (40, 30)])
def test_the_centre_is_224_of_256_of_the_shorter_side(form: str, height: int, width: int) -> None:
    found = region(decode_image(encoded(gradient(height, width), form), 56))
    side = 224 / 256 * min(height, width)
    across, down = side / width, side / height
    expected = ((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)
    assert found == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("height", "width"), [(200, 300), (1000, 800)])
def test_random_crops_have_the_area_and_aspect_asked_for(height: int, width: int) -> None:
    file = encoded(gradient(height, width), "JPEG").getvalue()
    boxes = [region(decode_image(io.BytesIO(file), 48, area=0.25, seed=seed)) for seed in range(60)]
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in boxes]
    aspects = [(right - left) * width / ((bottom - top) * height) for left, top, right, bottom in boxes]
    assert 0.22 < min(areas) < 0.4 and 0.8 < max(areas) < 1.05
    assert 0.7 < min(aspects) < 0.85 and 1.18 < max(aspects) < 1.4
    assert all(-0.03 <= edge <= 1.03 for box in boxes for edge in box)
    assert len({tuple(np.round(box, 2)) for box in boxes}) == 60


@pytest.mark.parametrize(("height", "width"), [(20, 900), (900, 20), (1, 1), (1, 60)])
def test_images_of_extreme_shapes(height: int, width: int) -> None:
    for seed in (None, 1, 2):
        pixels = decode_image(encoded(np.full((height, width, 3), 77, np.uint8)), 16, area=0.9, seed=seed)
        assert pixels.shape == (16, 16, 3) and (pixels == 77).all()


@pytest.mark.parametrize("seed", [None, 5])
def test_a_jpeg_decoded_at_a_smaller_scale_shows_the_same(seed: int | None) -> None:
    random = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(random).resize((600, 450), Image.Resampling.BICUBIC))
    jpeg, png = encoded(smooth, "JPEG"), encoded(smooth, "PNG")
    difference = decode_image(jpeg, 64, area=0.3, seed=seed).astype(int) - decode_image(png, 64, area=0.3, seed=seed)
    assert np.abs(difference).mean() < 2


def test_a_large_jpeg_is_decoded_at_a_smaller_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL.JpegImagePlugin import JpegImageFile

    sizes = []
    draft = JpegImageFile.draft

    def recorded(self: Any, mode: str, size: tuple[int, int]) -> Any:
        result = draft(self, mode, size)
        sizes.append(self.size)
        return result

    monkeypatch.setattr(JpegImageFile, "draft", recorded)
    for height, width in ((1024, 2048), (600, 600), (400, 500), (100, 100)):
        decode_image(encoded(gradient(height, width), "JPEG"), 64)
    # The crop is 7/8 of the shorter side: 896 = 14 * 64, 525 = 8.2 * 64, 350 = 5.5 * 64, 87 = 1.4 * 64.
    assert sizes == [(256, 128), (75, 75), (125, 100)]


@pytest.mark.parametrize(
    ("form", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1")]
)
def test_every_mode_becomes_rgb(form: str, mode: str) -> None:
    pixels = decode_image(encoded(np.full((50, 50, 3), 255, np.uint8), form, mode), 16)
    assert pixels.shape == (16, 16, 3) and pixels.min() > 250


# Loading.


def test_images_are_normalized_like_any_others(root: Path) -> None:
    val = load(root).val
    images = val.images[:]
    assert images.dtype == torch.float32 and images.shape == (6, 3, 32, 32)
    pixels = torch.tensor(decode_image(path_of(val.images, 4), 32)).permute(2, 0, 1).double() / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)
    assert torch.allclose(images[4].double(), (pixels - mean) / std, atol=1e-5)
    assert torch.equal(val.images[torch.tensor([4, 1])], images[[4, 1]])
    assert torch.equal(val.images[2:5], images[2:5])
    assert torch.equal(val.to("cpu").images[:], images)
    assert torch.equal(torch.cat([batch for batch, _ in in_order(val, 4)]), images)


def batches_of(data: Dataset, seed: int = 0, augmentation: Augmentation = ALL, **options: Any) -> list[Any]:
    loader = Loader(data.train, 5, torch.Generator().manual_seed(seed), augmentation, **options)
    return [*loader, *loader]


def test_the_number_of_workers_changes_nothing(root: Path) -> None:
    alone = batches_of(load(root))
    for workers in (1, 3):
        for one, other in zip(alone, batches_of(load(root, workers=workers)), strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    several = batches_of(load(root, workers=2), 0, STRONG, classes=3)
    for one, other in zip(batches_of(load(root), 0, STRONG, classes=3), several, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[1].shape[1] == 3
    assert [len(labels) for _, labels in alone] == [5, 5, 5, 3] * 2
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in alone)
    first, second = (torch.cat([images for images, _ in alone[part]]) for part in (slice(4), slice(4, 8)))
    assert not set(map(bytes, first.numpy())) & set(map(bytes, second.numpy()))


def test_each_image_is_cropped_by_its_own_seed(root: Path) -> None:
    train = load(root).train
    random = torch.Generator().manual_seed(0)
    order, augmentation = torch.randperm(18, generator=random), Augmentation(area=0.08)
    seeds = augmentation.draw(18, (32, 32), random).seeds
    assert len(set(seeds.tolist())) == 18
    loader = Loader(train, 5, torch.Generator().manual_seed(0), augmentation)
    images = torch.cat([images for images, _ in loader])
    for place, (index, seed) in enumerate(zip(order.tolist(), seeds.tolist(), strict=True)):
        pixels = torch.tensor(decode_image(path_of(train.images, index), 32, area=0.08, seed=seed))
        assert torch.equal(images[place], train.images.normalize(pixels.permute(2, 0, 1)[None])[0])


def test_shares_of_processes_are_the_batch_of_one(root: Path) -> None:
    together = batches_of(load(root))
    for rank in range(2):
        own = batches_of(load(root), rank=rank, ranks=2)
        # 3 images are too few for two processes.
        for (images, labels), (own_images, own_labels) in zip(together[:3], own[:3], strict=True):
            assert torch.equal(own_images, images[rank::2]) and torch.equal(own_labels, labels[rank::2])


def test_nothing_else_is_random(root: Path) -> None:
    state = torch.get_rng_state()
    batches_of(load(root, workers=2))
    assert torch.equal(torch.get_rng_state(), state)


def test_files_are_padded_and_shifted_like_images_in_memory(root: Path) -> None:
    split = load(root).train
    files, memory = (
        list(Loader(each, 5, torch.Generator().manual_seed(3), Augmentation(crop=4, flip=True)))
        for each in (split, split.to("cpu"))
    )
    for (images, labels), (same, same_labels) in zip(files, memory, strict=True):
        assert torch.equal(images, same) and torch.equal(labels, same_labels)


def test_images_keep_their_own_size_unless_told(root: Path) -> None:
    data = load(root, size=None)
    assert data.input_shape == (3, 40, 48)
    with Image.open(path_of(data.train.images, 4)) as image:
        whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(next(data.train.images.decode([[4]], workers=0))[0], whole)
    images, _ = next(iter(Loader(data.train, 5, torch.Generator(), ALL)))
    assert images.shape == (5, 3, 40, 48)
    assert load(root, size=40).input_shape == (3, 40, 40)


def test_images_of_several_sizes_need_one_to_be_given(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ["a", "b"])
    odd = tmp_path / "val" / "b" / "b_1.JPEG"
    Image.new("RGB", (64, 30)).save(odd)
    with pytest.raises(InputError, match=r"got 2 sizes: 48x40, 64x30.*data\.options\.size=30"):
        load(tmp_path, size=None)
    assert load(tmp_path, size=30).input_shape == (3, 30, 30)
    Image.new("RGB", (48, 40)).save(odd)
    data = load(tmp_path, size=None)
    # Later than the check of the headers, or beyond the images that it covers.
    Image.new("RGB", (64, 30)).save(odd)
    with pytest.raises(InputError, match=r"b_1.JPEG: expected an image of 48x40 .*got 64x30.*data\.options\.size=30"):
        list(in_order(data.load_test(), 5))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"GIF8"]
)
def test_a_damaged_image_is_named(tmp_path: Path, workers: int, damage: Any) -> None:
    write_class_folders(tmp_path, ["a", "b"])
    data = load(tmp_path, workers=workers)
    bad = Path(path_of(data.train.images, 3))
    bad.write_bytes(damage(bad.read_bytes()))
    with pytest.raises(InputError, match=f"^{re.escape(str(bad))}: not an image") as caught:
        batches_of(data)
    assert caught.value.exit_code == 2
    # The error and its traceback still exist, but the processes must not.
    assert not multiprocessing.active_children()
    with pytest.raises(InputError, match=re.escape(str(bad))):
        data.train.images[:]


def test_an_epoch_that_is_left_leaves_no_processes(root: Path) -> None:
    for _ in Loader(load(root, workers=2).train, 2, torch.Generator()):
        break
    assert not multiprocessing.active_children()


def test_an_image_that_went_away_is_named(tmp_path: Path) -> None:
    write_class_folders(tmp_path, ["a", "b"])
    data = load(tmp_path)
    Path(path_of(data.val.images, 0)).unlink()
    with pytest.raises(InputError, match=re.escape(path_of(data.val.images, 0))):
        data.val.to("cpu")


class Kills(ClassFolders):
    """Its third image kills the process that reads it, as the system does when memory runs out."""

    def open(self, index: int) -> str:
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open(index)


def test_a_worker_that_was_killed(root: Path) -> None:
    images = load(root).train.images
    killed = replace(images, source=Kills(**vars(images.source)), indices=np.arange(8), workers=1)
    with pytest.raises(RunError, match=r"decoding process died.*data\.options\.workers"):
        killed.to("cpu")
