"""`irepdeploy plot KIND`: every kind writes its picture; invalid input gives one line, exit code 2, and no file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import irepdeploy as ird
from irepdeploy.cli import main
from irepdeploy.network.nets import build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.plots import architecture, search_run
from irepdeploy.plots.folder_pictures import folder_pictures
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.origin import set_origin
from irepdeploy.runs.record import Record, append
from support.search_journals import evolution, write_journal

LAYERS = [f"stages.{stage}.{conv}.conv" for stage in range(3) for conv in range(2)]
BRANCHES = ["conv1x3", "dil1x2"]
START = {
    "event": "start",
    "recipe": {"net": {"name": "vgg6"}, "data": {"name": "digits"}, "search": {"strategy": "des", "evolutions": 1}},
    "layers": LAYERS,
    "branches": BRANCHES,
    "positions": [[row, column] for row in range(6) for column in range(2)],
    "budget": 8,
}


def write_search(folder: Path, strategy: str = "des") -> Path:
    start: dict[str, Any] = json.loads(json.dumps(START))
    start["recipe"]["search"]["strategy"] = strategy
    more = {"population": ["10" * 6, "01" * 6], "alpha": [0.5 + place / 100 for place in range(12)], "beta": [0.5] * 6}
    write_journal(folder, start, evolution(0, [0.5, 0.5], **more))
    Architecture(tuple(LAYERS), tuple(BRANCHES), ((1, 0),) * 6).save(folder / "best.json")
    return folder


def write_records(folder: Path, **facts: Any) -> None:
    values: dict[str, Any] = {"suite": "s", "scenario": "single-stream", "model": "net", "source": "onnx"}
    values |= {"artefact_sha256": None, "runner": {"runner": "ort-cpu"}, "precision": "fp32", "batch": 1}
    values |= {"input_shape": [1, 1, 16, 16], "samples_ns": [1000, 2000], "warmup": {}, "protocol_version": 1}
    folder.mkdir(exist_ok=True)
    record = Record(**values, system={}, conditions={}, argv=[], created="2026-01-01", facts=facts)
    append(folder / "records.jsonl", record)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_search(folder / "search")
    write_search(folder / "random", "random")
    write_records(folder / "bench", top1=70)
    for name, branches in (("plain", None), ("irep", "ireps")):
        torch.manual_seed(0)
        net = randomize_statistics(build("vgg6", branches=branches, stages=((4, 4), (8, 8))), 0).eval()
        (folder / name).mkdir()
        ird.save(set_origin(net, dataset="digits", statistics="trained"), folder / name / "best.pt")
    np.save(folder / "flat.npy", np.zeros((1, 16, 16), np.float32))
    return folder


@pytest.mark.parametrize(
    "line",
    [
        "arch search",
        "arch mine=search/best.json random irep irep-resnet18",
        "arch --diff search irep",
        "search des=search --against random",
        "features plain irep --layers stages.1.1.* --images flat.npy",
        "arch-weights search irep/best.pt",
        "kernels irep",
        "latency bench --top1 net=71.5",
        "latency bench --dark",
    ],
)
def test_every_kind_writes_its_picture(
    line: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs)
    ending = "svg" if "search" in line else "png"
    out = tmp_path / f"picture.{ending}"
    assert main(["plot", *line.split(), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert out.read_bytes().startswith(b"<?xml" if ending == "svg" else b"\x89PNG")


def test_without_out_the_picture_has_the_name_of_its_kind(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "arch", str(runs / "search")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["arch.png"]


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["search"], ["des"]),
        (["search", "random"], ["des", "random"]),
        (["search", "deep/search"], ["search", "deep/search"]),
        (["one=search", "random"], ["one", "random"]),
        (["search", "random", "deep/search"], ["search", "random", "deep/search"]),
    ],
)
def test_searches_are_named_by_strategy_label_or_path(
    folders: list[str], labels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in {folder.split("=")[-1] for folder in folders}:
        write_search(Path(folder), "random" if folder == "random" else "des")
    drawn: list[str] = []
    one = architecture.draw_architecture(Architecture(("a",), ("b",), ((1,),)))
    monkeypatch.setattr(search_run, "draw_search", lambda runs: drawn.extend(runs) or one)
    assert main(["plot", "search", *folders, "--out", "a.svg"]) == 0
    assert drawn == labels


def test_labels_of_architectures(runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(runs)
    drawn: list[str] = []
    one = architecture.draw_architecture(Architecture(("a",), ("b",), ((1,),)))

    def spy(views: Any) -> Any:
        drawn.extend(view.label for view in views)
        return one

    monkeypatch.setattr(architecture, "draw_architectures", spy)
    sources = ["search", "search/best.json", "a=random", "irep/best.pt", "irep-resnet18"]
    assert main(["plot", "arch", *sources, "--out", str(tmp_path / "a.png")]) == 0
    # The stems of two files are the same: their paths are not.
    assert drawn == ["search", "search/best.json", "a", "irep/best.pt", "irep-resnet18"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "Missing command"),
        ("nonsense search", "no command 'nonsense' (one of arch, search, features, arch-weights, kernels, latency)"),
        ("arch", "Missing argument"),
        ("arch none", "no file, folder, Architecture or network of this name"),
        ("arch empty", "neither a search nor a training"),
        ("arch journal.jsonl", "not an Architecture"),
        ("arch search search", "used twice"),
        ("arch a=search a=search", "a: this label is used twice"),
        ("arch search --diff", "--diff compares two Architectures, got 1 source"),
        ("arch search irep-resnet18 --diff", "no layer in common"),
        ("arch search --out a.jpg", "cannot draw a .jpg"),
        ("arch search --out journal.jsonl/a.png", "cannot write"),
        ("arch begun", "has not finished an evolution"),
        ("search none", "no such journal"),
        ("search empty", "no such journal"),
        ("search journal.jsonl", "not finished an evolution"),
        ("search begun", "has not finished an evolution"),
        ("search search --against empty", "no such journal"),
        ("features none", "no such checkpoint"),
        ("features search", "expected a checkpoint, got a directory"),
        ("features vgg6 --images none.png", "no such image"),
        ("features vgg6 --layers head", "no layer matches"),
        ("arch-weights empty", "no such journal"),
        ("arch-weights vgg6", "no branches with alpha and beta"),
        ("kernels search", "expected a checkpoint, got a directory"),
        ("kernels none.pt", "no such checkpoint"),
        ("latency none", "no such file of records"),
        ("latency search/journal.jsonl", "not a record"),
        ("latency silent", "no record has an accuracy"),
        ("latency silent --top1 net", "expected MODEL=PERCENT such as fused=95.4, got 'net'"),
        ("latency silent --top1 net=nan", "expected MODEL=PERCENT"),
        ("latency silent --top1 other=5", "no record of other"),
    ],
)
def test_bad_input_exits_2_and_writes_nothing(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_search(Path("search"))
    Path("empty").mkdir()
    for folder in (Path(), Path("begun")):
        write_journal(folder, START)
    write_records(Path("silent"))
    before = sorted(tmp_path.rglob("*"))
    assert main(["plot", *line.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    last = printed.err.splitlines()[-1]
    assert last.startswith("irepdeploy: error: ") and said in last
    assert "Traceback" not in printed.err
    assert sorted(tmp_path.rglob("*")) == before


def test_every_picture_of_a_folder(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {name: list(folder_pictures(runs / name)) for name in ("search", "irep", "bench")}
    titles = {name: [each.title for each in pictures] for name, pictures in found.items()}
    assert titles == {
        "search": ["Branch weights of the search: search"],
        "irep": ["Fused kernels: irep", "Outputs: irep"],
        "bench": [],
    }
    assert all(each.text.endswith(".") and each.figure.axes for pictures in found.values() for each in pictures)
    assert list(folder_pictures(tmp_path)) == []
    write_records(tmp_path / "silent")
    assert list(folder_pictures(tmp_path / "silent")) == []
    (tmp_path / "foreign").mkdir()
    ird.save(torch.nn.Conv2d(1, 1, 3), tmp_path / "foreign" / "best.pt")
    capsys.readouterr()
    assert list(folder_pictures(tmp_path / "foreign")) == []
    assert "no pictures of kernels and outputs: " in capsys.readouterr().err
