"""``irepdeploy init``: write a recipe for a network and its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from irepdeploy.cli.options import JsonOption
from irepdeploy.console import next_step, say

if TYPE_CHECKING:
    from irepdeploy.recipe import Recipe

    from .look import Look

__all__ = ["init"]

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
# The validation set takes one image in ten, up to a maximum.
_VAL_SHARE, _MOST_VAL = 10, 10_000
_TEST_SHARE = 0.2


def init(
    net: Annotated[
        str,
        typer.Argument(help="package.module:factory, timm/NAME, torchvision/NAME, or a network of irepdeploy by name."),
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="A folder with train/, val/ and test/, each with one folder of images per class (if val/ or test/ is "
            "missing, the other is the test set, and the search-validation set is split off from train/); a folder "
            "with one folder of images per class, of which a fifth is the test set; "
            "package.module:function, which returns the sets; or the name of a data set of irepdeploy."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Other keys of the recipe, such as data.options.size=64 or net.where=body."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The recipe to write.")] = Path("recipe.yaml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing recipe.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a recipe for a network and its data, and estimate the time and memory of a run.

    Builds the network, reads the data, checks that they fit, and measures a few steps. Example:
    irepdeploy init mynet:Net images task=classification
    """
    from dataclasses import asdict

    import yaml

    from irepdeploy.console import print_json
    from irepdeploy.errors import InputError
    from irepdeploy.files import write_bytes
    from irepdeploy.folders import make_folder
    from irepdeploy.recipe import recipe_of

    from .execution.device import ranks_of
    from .look import look

    if out.exists() and not overwrite:
        raise InputError("the recipe already exists", where=out, hint="--overwrite replaces it, --out names another")
    content: dict[str, Any] = {"net": _net(net), "data": _data(data)}
    recipe, content = recipe_of(content, overrides or [], "init")
    with ranks_of(recipe) as ranks:
        found = look(recipe, ranks.device)
    settings = recipe.search
    changed = {key: getattr(found, key) for key in ("batch_size", "population")}
    changed = {key: value for key, value in changed.items() if value != getattr(settings, key)}
    if changed:
        content["search"] = {**content.get("search", {}), **changed}
    if found.batch_size != recipe.train.batch_size:
        content["train"] = {**content.get("train", {}), "batch_size": found.batch_size}
    comment = "# All other keys have defaults; a run writes them into its folder as full-recipe.yaml.\n"
    write_bytes(make_folder(out.parent) / out.name, (comment + yaml.safe_dump(content, sort_keys=False)).encode())
    if json:
        print_json({**asdict(found), "search_seconds": found.search_seconds(recipe), "recipe": content})
        return
    _show(found, recipe, out)


def _show(found: Look, recipe: Recipe, out: Path) -> None:
    from irepdeploy.console import table
    from irepdeploy.data.folders import has_test_folders, train_folder
    from irepdeploy.errors import counted

    settings = recipe.search
    train, val, test = found.samples
    epochs = settings.warmup_epochs + settings.evolutions * settings.epochs_per_evolution
    memory = "not counted" if found.memory_bytes is None else f"{found.memory_bytes / 1e6:.0f} MB counted with branches"
    rows: list[list[object]] = [
        ["input", "x".join(map(str, found.input_shape))],
        *([] if found.classes is None else [["classes", found.classes]]),
        [
            "training, search-validation and test samples",
            f"{train:,}, {val:,}, {'none' if test is None else f'{test:,}'}",
        ],
        ["convolutions that get branches", f"{found.layers}, with {found.possible} possible branches"],
        ["other convolutions", _others(found.plain) or "none"],
        ["branches that a candidate may keep", f"{found.kept} (budget {settings.budget})"],
        ["batch", f"{found.batch_size} ({memory}, limit {found.limit_bytes / 1e6:.0f} MB)"],
        ["seconds per step of the search", f"{found.search_step:.3g} ({settings.subnets_per_step} subnets)"],
        ["seconds per step with every branch", f"{found.warmup_step:.3g}"],
        ["seconds to score a candidate", f"{found.score:.3g}"],
        ["a search", f"about {_time(found.search_seconds(recipe))}: {epochs} epochs of {found.steps} steps"],
        ["a training", f"at most about {_time(found.training_seconds(recipe))}: {recipe.train.epochs} such epochs"],
    ]
    table(f"{recipe.net.label} on {recipe.data.label}", ["what", "found"], rows)
    say(
        f"medians of {found.measured} steps on {found.device}, {counted(found.threads, 'thread')}; they depend on the"
        " machine and its load, and exclude reading and augmenting the data"
    )
    if recipe.data.name in ("folders", "imagenet"):
        own = recipe.data.name == "folders" and has_test_folders(Path(recipe.data.root or "."))
        cut = "val" in recipe.data.options
        root = Path(recipe.data.root or ".")
        pool = "train/" if not found.note or train_folder(root) != root else "the others"
        searched = f"split off from {pool} (data.options.val)" if cut else "val/"
        tested = found.note or f"{'test' if own else 'val'}/ is the test set"
        say(f"the search-validation set is {searched}; {tested}")
    if found.classes is not None and found.data_classes is not None and found.classes > found.data_classes:
        classes = counted(found.data_classes, "class", "classes")
        say(
            f"note: the network has {found.classes:,} outputs, and the data {classes}. Training works, and the other "
            f"outputs stay unused; net.args.NAME={found.data_classes} gives the factory the number instead"
        )
    say(f"wrote {out}")
    next_step("search", out)


def _time(seconds: float) -> str:
    for unit, name in ((_DAY, "days"), (_HOUR, "hours"), (_MINUTE, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} seconds"


def _net(text: str) -> dict[str, Any]:
    from irepdeploy.network.libraries import library_name

    return {"factory": text} if ":" in text or library_name(text) is not None else {"name": text}


def _data(text: str) -> dict[str, Any]:
    from irepdeploy.data import DATASETS
    from irepdeploy.errors import InputError, choices
    from irepdeploy.network.factory import is_factory

    path = Path(text).expanduser()
    if path.is_dir():
        return _folder(path)
    if is_factory(text) and not text.startswith("hf:"):
        return {"factory": text}
    if text in DATASETS or text.startswith("hf:"):
        return {"name": text}
    raise InputError(
        "expected a folder, package.module:function, or a data set of irepdeploy",
        where=text,
        hint=choices(text, DATASETS),
    )


def _folder(path: Path) -> dict[str, Any]:
    from irepdeploy.data.folders import has_class_folders, has_test_folders, read_folders, split_folders, train_folder
    from irepdeploy.data.hugging_face import is_saved_dataset, read_saved
    from irepdeploy.errors import InputError

    if any(path.glob("cifar-10-*")):
        return {"name": "cifar10", "root": str(path)}
    options: dict[str, Any] = {}
    own = has_test_folders(path)
    if is_saved_dataset(path):
        images, classes = len(read_saved(path)[0]), read_saved(path)[2]
    elif (path / "train").is_dir() and (path / "val").is_dir() and own:
        return {"name": "folders", "root": str(path)}
    elif (path / "train").is_dir() and (own or (path / "val").is_dir()):
        pool, classes = read_folders(path / "train")
        images = len(pool)
    elif not own and has_class_folders(train_folder(path)):
        options = {"test": _TEST_SHARE}
        pool, _, classes = split_folders(path, _TEST_SHARE)
        images = len(pool)
    else:
        raise InputError(
            "expected a folder of images for each class, or train/, val/ and test/ with such folders",
            where=path,
            hint="move the images of each class into CLASS/; or into train/CLASS, and some of them into test/CLASS",
        )
    val = min(max(images // _VAL_SHARE, min(len(classes), images // 2)), _MOST_VAL)
    return {"name": "folders", "root": str(path), "options": {**options, "val": max(1, val)}}


def _others(plain: Mapping[str, str]) -> str:
    """Return the number of convolutions for each reason, with the name of the first one."""
    groups = {why: [name for name in plain if plain[name] == why] for why in plain.values()}
    return ", ".join(f"{len(names)} ({names[0]}: {why})" for why, names in groups.items())
