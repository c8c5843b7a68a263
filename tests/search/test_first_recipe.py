"""`irepdeploy init`: a recipe for a user's network and data."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

from irepdeploy.cli import main
from irepdeploy.recipe import load_recipe
from support.dataset_files import write_class_folders

NET = "support.foreign:TinyNet"
DATA = "support.foreign:labelled"
POOL = "net.args.pool=true"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_looks_and_writes_what_a_search_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["init", NET, DATA, POOL, "net.args.outputs=5", "data.options.count=32", "threads=1", "--out", "a b.yaml"])
        == 0
    )
    printed, said = capsys.readouterr()
    assert "1x6x6" in printed and "32, 10, 12" in printed and "2, with 17 possible branches" in printed
    assert "1 (head: kernel 1x1" in printed
    assert "1 thread; they depend on" in printed and f"{NET} on {DATA}" in printed
    assert "note: the network has 5 outputs, and the data 3 classes. Training works" in printed
    recipe = load_recipe("a b.yaml")
    # Eight steps an epoch at least; everything else by default.
    assert (recipe.search.batch_size, recipe.train.batch_size, recipe.search.population) == (4, 4, 64)
    assert set(yaml.safe_load(Path("a b.yaml").read_text())) == {"net", "data", "threads", "search", "train"}
    words = shlex.split(said.splitlines()[-1].removeprefix("next: irepdeploy "))
    assert main([*words, "population=3", "evolutions=1", "search.warmup_epochs=0", "subnets_per_step=1"]) == 0
    assert Path("runs/search/best.json").exists()


def test_folders_and_a_network_of_ours_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    write_class_folders(Path("images"), ["a", "b"], train=12, size=(16, 16))
    line = ["init", "vgg6", "images", "net.args.stages=[[4], [4]]", "data.options.workers=0", "threads=1", "--json"]
    assert main(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["data"] == {"name": "folders", "root": "images", "options": {"val": 2, "workers": 0}}
    assert found["input_shape"] == [3, 16, 16] and found["classes"] == 2 and found["samples"] == [22, 2, 8]
    assert found["score"] > 0 and found["search_step"] > 0 and found["search_seconds"] > 25 * found["search_step"]
    assert main([*line[:-1], "--overwrite"]) == 0
    out = capsys.readouterr().out
    assert "split off from train/ (data.options.val); val/ is the test set" in out and "note:" not in out
    assert main(line) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err


def test_class_folders_alone(capsys: pytest.CaptureFixture[str]) -> None:
    write_class_folders(Path("made"), ["a", "b"], train=15, size=(16, 16))
    Path("made/train").rename("images")
    line = ["init", "vgg6", "images", "net.args.stages=[[4], [4]]", "data.options.workers=0", "threads=1"]
    assert main(line) == 0
    options = yaml.safe_load(Path("recipe.yaml").read_text())["data"]["options"]
    assert options == {"test": 0.2, "val": 2, "workers": 0}
    said = "split off from the others (data.options.val); the test set is 6 of the 30 images, chosen class by class"
    assert said in (out := capsys.readouterr().out) and "22, 2, 6" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([NET, "nowhere"], "expected a folder, package.module:function, or a data set of irepdeploy"),
        ([NET, "."], "some of them into test/CLASS"),
        (["vgg61", "digits"], "did you mean vgg6"),
        (["mynet", "digits"], "a network of your own is package.module:factory"),
        ([NET, "digits", POOL], "net: the network has 3 outputs for the 10 classes of the data (give it one output"),
        (["support.foreign:halves", DATA], "expected a torch.nn.Module from the factory, got tuple"),
        ([NET, DATA, POOL, "net.where=head"], "no convolution to insert branches at"),
        ([NET, DATA, POOL, "population=x"], "search.population"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1 and said in printed.err
    assert list(Path().iterdir()) == []
