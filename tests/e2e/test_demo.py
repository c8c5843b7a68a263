"""The demo produces a verified, measured network from data, and reports it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest

from irepdeploy.cli import main
from irepdeploy.errors import RunError
from irepdeploy.verify.certificate import Certificate

# Smaller than scale=smoke alone, which the README's commands run.
SMALL = ["scale=smoke", "search.evolutions=2", "train.epochs=2", "data.options.train=50", "data.options.val=50"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a small demo with its output and log."""
    out = tmp_path_factory.mktemp("demo with a space")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
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
    assert [row["network"] for row in summary["accuracy"]] == ["plain", "with branches"]
    assert summary["accuracy"][0]["branches"] == 0 < summary["accuracy"][1]["branches"]
    assert all(row["low"] < row["test_accuracy"] < row["high"] for row in summary["accuracy"])
    assert summary["search"]["evaluations"] == 8 and summary["search"]["alpha_spread"] > 0
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
    assert summary["smoke"] and "are meaningless" in demo[1]
    assert plain["params"] == 72_666 < branches["params"] and plain["macs"] < branches["macs"]
    assert plain["peak_memory_bytes"] < branches["peak_memory_bytes"]
    assert all(row["seconds_per_epoch"] > 0 for row in summary["cost"])


def test_it_claims_no_difference_of_accuracy_and_says_where_that_is_asked(demo: tuple[Path, str]) -> None:
    table = demo[1].partition("Are the outputs")[0]
    assert (
        "cannot show whether branches pay off" in table
        and "handwritten digits" in table
        and "docs/does-it-pay.md" in table
    )
    assert (Path(__file__).parents[2] / "docs" / "does-it-pay.md").exists()
    assert "random" not in table and "95 % interval" in table


def test_data_that_are_not_there_are_one_line_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("irepdeploy.data.fashion_mnist._DEBIAN", tmp_path / "none")
    for data, code, said in (
        ("fashion_mnist", 3, "Fashion-MNIST is not installed (sudo apt-get install dataset-fashion-mnist"),
        ("mnist", 2, "--data: no demo of 'mnist' (one of digits, fashion_mnist)"),
    ):
        assert main(["demo", "--data", data, "--out", str(tmp_path / "out")]) == code
        assert said in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "out").exists()


def test_the_small_version_of_other_data_is_part_of_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scale of the user replaces it."""
    commands: list[list[str]] = []

    def seen(command: list[str]) -> None:
        commands.append(command)
        if len(commands) % 3 == 0:
            raise RunError("cut short by the test")

    monkeypatch.setattr("irepdeploy.cli.demo.invoke", seen)
    for overrides in (["seed=1"], ["scale=smoke"]):
        assert main(["demo", "--data", "fashion_mnist", *overrides, "--out", str(tmp_path)]) == 4
    small, smoke = commands[:3], commands[3:]
    assert [each[:2] for each in small] == [[name, "fashion_mnist"] for name in ("search", "train", "train")]
    assert all("data.options.train=2000" in each and "seed=1" in each for each in small)
    assert not any("data.options.train=2000" in each for each in smoke) and "scale=smoke" in smoke[0]


@pytest.mark.slow
def test_the_demo_of_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--data", "fashion_mnist", "scale=smoke", "--out", str(tmp_path)]) == 0
    # The smoke scale is of noise.
    assert "on synthetic, fused, one seed" in capsys.readouterr().out


def test_every_file_is_named_and_there(demo: tuple[Path, str]) -> None:
    out, printed = demo
    named = [line.strip().split(" (")[0] for line in printed.partition("Written:\n")[2].splitlines()[:-1]]
    there = {str(path) for path in out.rglob("*") if path.is_file() and path.parent.name != "population"}
    assert set(named) == there | {str(out / "search" / "population")}
    # Hints of the commands that it runs would be misleading.
    assert printed.count("next:") == 1 and "verify" in printed.splitlines()[-1].partition("next:")[2]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("architecture.png", "search.png"))


@pytest.mark.slow
def test_the_quick_one_proves_the_outputs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in an installation without extras.
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["demo", "--quick", "--out", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert [summary[key] for key in ("accuracy", "latency", "cost", "quick")] == [[], [], [], True]
    assert len(summary["equality"]) == 4 and all(row["ok"] for row in summary["equality"])
    assert main(["verify", str(tmp_path / "out/irep/best.pt"), str(tmp_path / "out/export/model.onnx")]) == 0
    assert "Latency" not in printed.getvalue() and printed.getvalue().count("same") == 5
    named = printed.getvalue().partition("Written:\n")[2].split("\n")[:-1]
    assert all(Path(line.strip().split(" (")[0]).exists() for line in named)


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
    """The figures of the second run contain nothing of the first."""
    own = demo[0] / "notes.txt"
    own.write_text("mine")
    before = (demo[0] / "bench/records.jsonl").read_text().count("\n")
    assert main(["demo", *SMALL, "search.evolutions=1", "--out", str(demo[0])]) == 0
    assert (demo[0] / "bench/records.jsonl").read_text().count("\n") == before
    assert json.loads((demo[0] / "summary.json").read_text())["search"]["evaluations"] == 4
    assert own.read_text() == "mine"
