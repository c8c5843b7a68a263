from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from irepdeploy.recipe import load_recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.search.engine import Search
from irepdeploy.search.execution.shipped import recipe_path, shipped_recipes
from irepdeploy.search.training.training import Training
from support.dataset_files import write_cifar10, write_class_folders

FOLDER = Path(recipe_path("digits")).parent
PAPER = {
    "irep_vgg16_cifar10": ("vgg16", "ireps"),
    "irep_resnet18_cifar10": ("resnet18_cifar", "ireps-resnet-cifar"),
    "irep_resnet18_imagenet": ("resnet18", "ireps-resnet-imagenet"),
    "irep_resnet34_imagenet": ("resnet34", "ireps-resnet-imagenet"),
    "irep_resnet50_imagenet": ("resnet50", "ireps-resnet-imagenet"),
}

# Network, and what its backbone keeps.
DETECTION = {
    "shapes_centernet": ("centernet_vgg6", (0, False)),
    "shapes_faster_rcnn": ("faster_rcnn_vgg6_fpn", (0, False)),
    "irep_resnet18_centernet_coco": ("centernet_dcn_resnet18", (0, False)),
    "irep_resnet50_fpn_coco": ("faster_rcnn_resnet50_fpn", (1, True)),
}


def test_every_recipe_on_disk_is_shipped_and_searched_here() -> None:
    files = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".yaml", ".yml"))
    assert len(files) == 11  # raise it with every recipe that is added
    assert sorted(shipped_recipes().values()) == files
    assert set(shipped_recipes()) == {"digits", "fashion_mnist", *PAPER, *DETECTION}


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_the_smoke_scale_is_smaller_and_asks_for_no_files(name: str) -> None:
    whole, smoke = load_recipe(recipe_path(name)), load_recipe(recipe_path(name), ["scale=smoke"])
    assert smoke.search.population < whole.search.population
    assert smoke.train.epochs < whole.train.epochs
    assert smoke.data.root is None and smoke.data.name in ("digits", "synthetic", "shapes")
    assert smoke.branches == whole.branches and smoke.search.budget == whole.search.budget


# Networks of the same kind, which take the same path.
AT_NIGHT = (
    "irep_resnet18_cifar10", "irep_resnet18_imagenet", "irep_resnet34_imagenet", "irep_resnet50_imagenet",
    "irep_resnet18_centernet_coco", "irep_resnet50_fpn_coco", "shapes_faster_rcnn",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.slow] * (x in AT_NIGHT)) for x in sorted(shipped_recipes())]
)
def test_every_recipe_is_searched_and_trained_at_its_smoke_scale(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path(name), ["scale=smoke", "device=cpu", "train.epochs=2"])
    found = Search(recipe, tmp_path / "search").run()
    best = Architecture.load(tmp_path / "search" / "best.json")
    assert best == found.best
    trained = Training(recipe, tmp_path / "train", best).run()
    assert trained.branches == best.count > 0
    assert json.loads((tmp_path / "train" / "result.json").read_text())["epochs"] == 2


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_numbers_of_the_paper(name: str) -> None:
    recipe = load_recipe(recipe_path(name))
    search, train = recipe.search, recipe.train
    assert (recipe.net.name, recipe.branches) == PAPER[name]
    assert recipe.net.args == {}
    assert search.strategy == "des"
    assert (search.weights.lr, search.arch.lr, search.arch.betas) == (0.1, 0.0001, (0.5, 0.999))
    assert (search.crossover, search.mutation, search.population) == (0.5, 0.5, 128)
    epochs = search.warmup_epochs + search.evolutions * search.epochs_per_evolution
    if name.endswith("cifar10"):
        assert (recipe.data.name, search.budget, search.subnets_per_step, epochs) == ("cifar10", "2/3", 5, 500)
        assert (train.epochs, train.batch_size, train.drop_path) == (600, 96, 0.08)
        weights = train.weights
        assert (weights.lr, weights.momentum, weights.weight_decay, weights.clip) == (0.05, 0.9, 0.0003, 5)
        assert (train.schedule, train.augment.cutout) == ("cosine", 16)
    else:
        assert (recipe.data.name, search.budget, search.subnets_per_step, epochs) == ("imagenet", "1/2", 1, 100)
        assert (search.warmup_epochs, search.batch_size) == (5, 256)
        assert train.epochs == 120


@pytest.mark.parametrize("name", DETECTION)
def test_detectors_are_trained_as_mmdetection_trains_them(name: str) -> None:
    recipe = load_recipe(recipe_path(name))
    assert (recipe.net.name, (recipe.freeze.stages, recipe.freeze.statistics)) == DETECTION[name]
    assert (recipe.task, recipe.net.where) == ("detection", "backbone")
    train = recipe.train
    weights = (train.weights.lr, train.weights.momentum, train.weights.weight_decay, train.weights.clip)
    whole = (train.epochs, train.batch_size, train.schedule, train.milestones, train.warmup_steps)
    if name == "irep_resnet50_fpn_coco":
        assert weights == (0.02, 0.9, 1e-4, None)
        assert whole == (12, 16, "step", (8, 11), 500)
        assert recipe.data.options["height"], recipe.data.options["width"] == (800, 1333)
    elif name == "irep_resnet18_centernet_coco":
        assert weights == (0.01, 0.9, 1e-4, 35)
        assert whole == (140, 64, "step", (90, 120), 1000)


@pytest.mark.parametrize("name", sorted({*PAPER, *DETECTION}))
def test_every_number_says_whose_it_is_and_the_header_what_to_type(name: str) -> None:
    text = recipe_path(name).read_text()
    header, _, body = text.partition("\nnet:" if name in PAPER else "\ntask:")
    command = f"irepdeploy {'search' if name in PAPER else 'train'} {name} "
    for word in ("Source:", "Data:", "Command:", "Time:", "Smoke:", command):
        assert word in header
    for line in body.partition("\nscales:")[0].splitlines():
        value, _, comment = line.partition("#")
        key, _, given = value.partition(":")
        if given.strip() and key.strip() != "root":
            assert comment.strip().startswith(("paper", "ours", "mmdet")), line


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_modern_scale_changes_the_training_alone(name: str) -> None:
    whole, modern = load_recipe(recipe_path(name)), load_recipe(recipe_path(name), ["scale=modern"])
    assert modern.model_copy(update={"train": whole.train}) == whole
    train = modern.train
    assert train.label_smoothing == 0.1 and train.ema >= 0.999 and train.amp and train.warmup_epochs == 5
    both = load_recipe(recipe_path(name), ["scale=modern", "scale=smoke"])
    assert both.train.epochs == 2 and both.train.ema == train.ema


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("irep_resnet18_cifar10", "binary"),
        pytest.param("irep_vgg16_cifar10", "python", marks=pytest.mark.slow),
        pytest.param("irep_vgg16_cifar10", "binary", marks=pytest.mark.slow),
        pytest.param("irep_resnet18_cifar10", "python", marks=pytest.mark.slow),
    ],
)
def test_on_archives_in_the_published_format(name: str, form: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_cifar10(tmp_path / "data", form, images=8)
    _search_and_train(name, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "irep_resnet18_imagenet",
        pytest.param("irep_resnet34_imagenet", marks=pytest.mark.slow),
        pytest.param("irep_resnet50_imagenet", marks=pytest.mark.slow),
    ],
)
def test_on_class_folders(name: str, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "data")
    _search_and_train(name, tmp_path, "data.options.size=32", "data.options.workers=0")


@pytest.mark.parametrize(
    "name",
    [
        "irep_vgg16_cifar10",
        *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(set(PAPER) - {"irep_vgg16_cifar10"})),
    ],
)
def test_the_smoke_scale_on_other_data_in_its_own_format(name: str, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "data", train=14, size=(32, 32))
    options = [] if "imagenet" in name else ["data.options.workers=0"]
    _search_and_train(name, tmp_path, "data.name=folders", *options, verify=())
    recipe = load_recipe(recipe_path(name), ["scale=smoke", f"data.root={tmp_path}", "data.options.train=5"])
    # Overrides of data take precedence over the scale, whose sizes apply elsewhere.
    small = load_recipe(recipe_path(name), ["scale=smoke"]).data.options
    assert recipe.data.options["train"] == 5 and recipe.data.options["val"] == small["val"]
    assert "shape" not in recipe.data.options and recipe.data.name != "synthetic"


def _search_and_train(name: str, folder: Path, *overrides: str, verify: Sequence[str] = ("data.verify=false",)) -> None:
    given = ["scale=smoke", "device=cpu", f"data.root={folder / 'data'}", *verify, *overrides]
    given += ["search.evolutions=1", "train.epochs=1"]
    recipe = load_recipe(recipe_path(name), given)
    found = Search(recipe, folder / "search").run()
    trained = Training(recipe, folder / "train", found.best).run()
    assert trained.branches == found.best.count > 0
    assert 0 <= trained.test_accuracy <= 1
