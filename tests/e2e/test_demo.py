"""The demo goes from data to a verified, measured network, and says so."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest

from irepdeploy.cli import main
from irepdeploy.verify.certificate import Certificate

# Smaller than scale=smoke alone, which the README's commands run.
SMALL = ["scale=smoke", "search.evolutions=2", "train.epochs=2", "data.options.train=50", "data.options.val=50"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a small demo, and what it printed."""
    out = tmp_path_factory.mktemp("demo with a space")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["demo", *SMALL, "--out", str(out)]) == 0
    return out, printed.getvalue()


def test_its_artefacts_are_verified_and_certified(demo: tuple[Path, str]) -> None:
    out, _ = demo
    assert main(["verify", str(out / "irep/best.pt"), str(out / "export/model.onnx")]) == 0
    assert main(["verify", str(out / "irep/best.pt"), str(out / "export-plain/model.onnx")]) == 1
    certificate = Certificate.load(out / "export/certificate.json")
    certificate.check_files(out / "export")
    assert certificate.ok


def test_summary_holds_every_figure(demo: tuple[Path, str]) -> None:
    summary = json.loads((demo[0] / "summary.json").read_text())
    assert [row["network"] for row in summary["accuracy"]] == ["plain", "random search", "DES"]
    assert summary["accuracy"][0]["branches"] == 0 < summary["accuracy"][2]["branches"]
    assert summary["search"]["search"]["evaluations"] == summary["search"]["search-random"]["evaluations"] == 8
    assert summary["search"]["search"]["alpha_spread"] > 0
    assert len(summary["equality"]) == 4 and all(row["error"] <= row["allowed"] for row in summary["equality"])
    assert [(row["network"], row["runner"]) for row in summary["latency"]] == [
        ("plain, BN kept", "torch"),
        ("plain, BN folded", "torch"),
        ("branches (train state)", "torch"),
        ("branches, fused", "torch"),
        ("plain, BN folded", "ort-cpu"),
        ("branches, fused", "ort-cpu"),
    ]
    plain, branches = summary["cost"]
    assert summary["smoke"] and "mean nothing" in demo[1]
    assert plain["params"] == 72_666 < branches["params"] and plain["macs"] < branches["macs"]
    assert plain["peak_memory_bytes"] < branches["peak_memory_bytes"]
    assert all(row["seconds_per_epoch"] > 0 for row in summary["cost"])


def test_every_file_is_named_and_there(demo: tuple[Path, str]) -> None:
    out, printed = demo
    named = [line.strip().split(" (")[0] for line in printed.partition("Written:\n")[2].splitlines()[:-1]]
    there = {str(path) for path in out.rglob("*") if path.is_file() and path.parent.name != "population"}
    populations = {str(out / name / "population") for name in ("search", "search-random")}
    assert set(named) == there | populations
    assert "next:" in printed.splitlines()[-1] and "verify" in printed.splitlines()[-1]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("architecture.png", "search.png"))


@pytest.mark.slow
def test_same_seed_same_result(demo: tuple[Path, str], tmp_path: Path) -> None:
    """A search of the same recipe elsewhere finds the same Architectures; another seed does not."""
    recipe = ["search", "digits", *SMALL]
    assert main([*recipe, "--out", str(tmp_path / "again")]) == 0
    assert main([*recipe, "seed=1", "--out", str(tmp_path / "other")]) == 0
    found = [
        sorted(path.read_text() for path in (folder / "population").iterdir())
        for folder in (demo[0] / "search", tmp_path / "again", tmp_path / "other")
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.slow
def test_a_second_demo_into_the_same_folder(demo: tuple[Path, str]) -> None:
    """Nothing of the first one is left in the figures of the second."""
    own = demo[0] / "notes.txt"
    own.write_text("mine")
    before = (demo[0] / "bench/records.jsonl").read_text().count("\n")
    assert main(["demo", *SMALL, "search.evolutions=1", "--out", str(demo[0])]) == 0
    assert (demo[0] / "bench/records.jsonl").read_text().count("\n") == before
    assert json.loads((demo[0] / "summary.json").read_text())["search"]["search"]["evaluations"] == 4
    assert own.read_text() == "mine"
