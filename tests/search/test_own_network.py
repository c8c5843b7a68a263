"""Recipes that name a user's network, data and task, used from the command line."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import irepdeploy as ird
from irepdeploy.cli import main
from irepdeploy.errors import CheckpointError, MissingError
from irepdeploy.network.factory import load_model_factory
from irepdeploy.recipe import load_recipe
from irepdeploy.reparam.origin import origin_of
from support.foreign import TinyNet, labelled

FEW = {"population": 3, "evolutions": 1, "warmup_epochs": 1, "subnets_per_step": 1, "batch_size": 8}
MINIMAL: dict[str, Any] = {
    "net": {"factory": "support.foreign:TinyNet", "args": {"pool": True}},
    "data": {"factory": "support.foreign:labelled"},
}
TINY: dict[str, Any] = {**MINIMAL, "threads": 1, "search": FEW, "train": {"epochs": 1, "batch_size": 8}}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a recipe into the current folder, an empty one, with other sections in place of the tiny one's."""
    monkeypatch.chdir(tmp_path)

    def write(**changes: Any) -> str:
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**TINY, **changes}))
        return "mine.yaml"

    return write


def ran(capsys: pytest.CaptureFixture[str], *line: str) -> str:
    capsys.readouterr()
    code = main(list(line))
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out + printed.err


def following(printed: str) -> list[str]:
    """Return the words of the last line `next: irepdeploy ...`, without the program."""
    (line,) = [line for line in printed.splitlines() if line.startswith("next: ")][-1:]
    words = shlex.split(line.removeprefix("next: "))
    assert words[0] == "irepdeploy"
    return words[1:]


def test_every_printed_next_line_works(recipe: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    printed = ran(capsys, "search", recipe(), "--out", "found")
    assert printed.count("Search of support.foreign:TinyNet on support.foreign:labelled") == 1
    trained = ran(capsys, *following(printed))
    assert "Training of support.foreign:TinyNet" in trained
    exported = ran(capsys, *following(trained))
    assert "the same" in ran(capsys, *following(exported))
    tuned = ran(capsys, "train", "finetune", "mine.yaml", "--from", "build/fused.pt", "--insert", "acnet")
    assert "Fine-tuning of support.foreign:TinyNet" in tuned
    assert "the same" in ran(capsys, *following(ran(capsys, *following(tuned))))


def test_the_checkpoint_remembers_its_factory(
    recipe: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path.cwd() / "netoftest.py"
    path.write_text(
        "from support.foreign import TinyNet\n\ndef build(outputs):\n    return TinyNet(outputs, pool=True)\n"
    )
    monkeypatch.setattr("sys.path", [*sys.path])
    factory = {"net": {"factory": "netoftest:build", "args": {"outputs": 5}, "where": "body.*"}, "threads": 1}
    ran(capsys, "train", recipe(**factory))
    origin = origin_of(ird.load("runs/train/best.pt"))
    assert (origin.factory, origin.args, origin.input_shape) == ("netoftest:build", {"outputs": 5}, (1, 6, 6))
    assert [layer.name for layer in origin.layers] == ["body.0"]
    # The user has named it, so later commands do not need it again.
    assert "the same" in ran(capsys, *following(ran(capsys, "export", "runs/train/best.pt", "--out", "build")))
    ran(capsys, "inspect", "runs/train/best.pt")


def test_a_factory_that_the_user_has_not_named_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    evil = "import pathlib\npathlib.Path('ran').touch()\ndef clean():\n    pathlib.Path('ran').touch()\n"
    (tmp_path / "evil.py").write_text(evil)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(evil)
    (tmp_path / "package" / "inner.py").write_text(evil)
    for factory in ("evil:clean", "package.inner:clean", "support.foreign:pairs", "os:abort"):
        ird.save(TinyNet().eval(), tmp_path / "c.pt", factory=factory)
        with pytest.raises(CheckpointError, match=f"add --model {factory}"):
            ird.load("c.pt")
        assert main(["export", "c.pt"]) == 2
        assert not Path("ran").exists()
    # Named from another file, which is not the one that is here.
    named = Path(os.environ["XDG_STATE_HOME"]) / "irepdeploy/factories"
    named.parent.mkdir(exist_ok=True)
    with named.open("a") as file:
        file.write("evil:clean\t/elsewhere/evil.py\n")
    ird.save(TinyNet().eval(), tmp_path / "c.pt", factory="evil:clean")
    assert main(["export", "c.pt"]) == 2 and not Path("ran").exists()


def test_weights_where_and_task(recipe: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(3)
    start = TinyNet().train()
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in start.state_dict().items()}}, "w.pt"
    )
    net = {"factory": "support.foreign:TinyNet", "weights": "w.pt", "where": "body"}
    data = {"factory": "support.foreign:halves", "options": {"dense": True, "count": 8}}
    train = {"epochs": 1, "batch_size": 8, "weights": {"lr": 1e-20}}
    printed = ran(capsys, "train", recipe(net=net, data=data, task="segmentation", train=train))
    assert "search-validation mIoU, fused" in printed
    trained = ird.load("runs/train/best.pt").state_dict()
    assert torch.equal(trained["stem.0.weight"], start.state_dict()["stem.0.weight"])
    # A run with other weights is another run.
    torch.save(TinyNet().state_dict(), "w.pt")
    line = ["train", "mine.yaml", "--resume"]
    assert main(line) == 2 and "another recipe" in capsys.readouterr().err


def test_the_full_recipe_gives_the_same_run(recipe: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    ran(capsys, "search", recipe())
    again = "runs/search/full-recipe.yaml"
    full = yaml.safe_load(Path(again).read_text())
    assert full["task"] == "classification" and full["net"]["where"] == "*" and full["search"]["arch"]["lr"] == 1e-4
    ran(capsys, "search", again)
    first, second = (json.loads(Path(f"runs/{name}/best.json").read_text()) for name in ("search", "search-2"))
    assert first == second


def test_six_lines_are_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "least.yaml").write_text(
        "net:\n  factory: mine:Net\ndata:\n  name: folders\n  root: images\n  options: {val: 9}\n"
    )
    recipe = load_recipe(tmp_path / "least.yaml")
    assert recipe.net.label == "mine:Net" and recipe.data.label == "folders" and recipe.task == "classification"


def test_pictures_lie_in_the_run(recipe: Callable[..., str], capsys: pytest.CaptureFixture[str], drawn: None) -> None:
    printed = ran(capsys, "search", recipe())
    ran(capsys, *following(printed))
    for name in ("search", "train"):
        assert (Path("runs") / name / "architecture.png").stat().st_size > 1000
        assert (Path("runs") / name / "curves.png").stat().st_size > 1000
    assert Path("runs/train/confusion.png").stat().st_size > 1000
    assert Path("runs/search/pareto.png").stat().st_size > 1000
    assert "runs/search/curves.png" in printed.replace("\\", "/")


def test_runs_number_themselves(recipe: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/train-7").mkdir(parents=True)
    Path("runs/train-x").mkdir()
    mine = recipe()
    assert "wrote runs/train-8" in ran(capsys, "train", mine)
    assert "wrote runs/train-9" in ran(capsys, "train", mine, "branches=acnet")
    assert "wrote runs/train-9" in ran(capsys, "train", mine, "branches=acnet", "--resume")
    assert main(["train", mine, "--resume"]) == 2
    assert "another recipe" in capsys.readouterr().err
    assert sorted(path.name for path in Path("runs").iterdir()) == ["train-7", "train-8", "train-9", "train-x"]


def broken(**options: Any) -> nn.Module:
    raise ValueError("no weights\nfound")


def one_set() -> Any:
    return {"train": (torch.zeros(4, 1, 6, 6), torch.zeros(4).long())}


def test_a_module_without_an_import_of_its_own_is_no_missing_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingError, match=r"no_such_library.*the module needs this import to work"):
        load_model_factory("lacking:Net")


number = 7


def ends() -> None:
    sys.exit(0)


def numbered() -> dict[str, Any]:
    return {**labelled(), "classes": 3}


def elsewhere() -> TinyNet:
    """A factory that changes the current folder."""
    os.chdir("/")
    return TinyNet(pool=True)


def test_a_factory_that_changes_the_folder_moves_no_run(
    recipe: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    here = Path.cwd()
    ran(capsys, "train", recipe(net={"factory": f"{HERE}:elsewhere"}), "--out", "out")
    assert Path.cwd() == here and (here / "out" / "result.json").exists()


HERE = "test_own_network"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no module": (
        {"net": {"factory": "no_such_module:Net"}},
        "(run this in its folder, or add the folder to PYTHONPATH)",
    ),
    "no function": ({"net": {"factory": "support.foreign:TinyNt"}}, "did you mean support.foreign:TinyNet?"),
    "not a name": ({"net": {"factory": "TinyNet"}}, "expected --model package.module:factory"),
    "a number": ({"net": {"factory": f"{HERE}:number"}}, "has no function 'number': it is a int"),
    "it fails": ({"net": {"factory": f"{HERE}:broken"}}, "the factory raised ValueError: no weights found"),
    "other arguments": ({"net": {"factory": "support.foreign:TinyNet", "args": {"wide": 3}}}, "wide"),
    "no arguments": (
        {"net": {"factory": "support.foreign:maps"}},
        "needs arguments: missing a required argument: 'count'",
    ),
    "no options": ({"data": {"factory": "support.foreign:maps"}}, "(data.options={NAME: VALUE} gives them)"),
    "no network": ({"net": {"factory": "support.foreign:halves"}}, "expected a torch.nn.Module from the factory"),
    "both": ({"net": {"factory": "support.foreign:TinyNet", "name": "vgg6"}}, "net: expected either name"),
    "where": ({"net": {**MINIMAL["net"], "where": "head.*"}}, "none chosen by where='head.*'"),
    "no weights": ({"net": {**MINIMAL["net"], "weights": "nowhere.pt"}}, "nowhere.pt: no such"),
    "wrong weights": ({"net": {**MINIMAL["net"], "weights": "w.pt"}}, "missing (body.0.weight"),
    "it ends": ({"net": {"factory": f"{HERE}:ends"}}, "the factory raised SystemExit: 0"),
    "classes": ({"data": {"factory": f"{HERE}:numbered"}}, 'expected names as "classes"'),
    "data fails": ({"data": {"factory": f"{HERE}:broken"}}, "the factory raised ValueError: no weights found"),
    "no data": ({"data": {"factory": "support.foreign:TinyNet"}}, "expected (train, val), (train, val, test)"),
    "arrays": (
        {"data": {"factory": "support.foreign:maps", "options": {"count": 4}}},
        "expected sets, got arrays (return one pair for each",
    ),
    "one set": ({"data": {"factory": f"{HERE}:one_set"}}, "got keys train"),
    "options": ({"data": {"factory": "support.foreign:labelled", "options": {"many": 3}}}, "'many'"),
    "no task": ({"task": "support.foreign:TinyNet"}, "expected an irepdeploy.tasks.Task, got TinyNet"),
    "unknown task": ({"task": "segmentaton"}, "unknown task 'segmentaton'"),
    "another task": ({"task": "segmentation"}, "segmentation needs outputs of (N, classes, H, W)"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_cannot_be_run_is_one_line_and_leaves_nothing(
    fault: str, recipe: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    changes, words = WRONG[fault]
    torch.save({"stem.0.weight": torch.zeros(4, 1, 3, 3)}, "w.pt")
    assert main(["train", recipe(**changes)]) in (2, 3)
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if not line.startswith("train ")]
    assert len(lines) == 1 and words in lines[0], printed.err
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["mine.yaml", "w.pt"]
