"""Tables of a Markdown file agree with their records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from irepdeploy.bench.tools.collapse import TOOLS
from irepdeploy.bench.tools.readme_tables import main, refreshed
from irepdeploy.errors import InputError
from irepdeploy.runs.record import Record, append
from support.records import make_record

ROOT = Path(__file__).parents[3]
TEXT = """# Title

<!-- table: mine from r/records.jsonl -->
<!-- end -->

Between, with | a bar | and <!-- another comment -->

<!-- table: mine ort-cpu from r/records.jsonl -->
what stood there before
<!-- end -->

tail
"""


def record(model: str, ms: float, runner: str, **changes: object) -> Record:
    samples = [int(ms * 1e6) + offset * 1000 for offset in range(-20, 20)]
    values: dict[str, object] = {
        "suite": "mine",
        "runner": {"runner": runner, "device": "cpu", "threads": 1},
        "input_shape": [1, 3, 8, 8],
        "samples_ns": samples,
        "warmup": {"steady": model != "b"},
        "protocol_version": 2,
        "system": {"cpu": {"model": "A", "logical_cores": 2}},
        "created": "2026-11-23T11:26:12+00:00",
        "facts": {"paper_ms": 2 * ms, "top1": 90.0, "top1_source": "paper, not measured"},
    }
    return make_record(model, **{**values, **changes})


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    (tmp_path / "r").mkdir()
    measured = [("a", 10.0, "torch"), ("b", 20.0, "torch"), ("b", 5.0, "ort-cpu"), ("c", 4.0, "ort-cpu")]
    for model, ms, runner in measured:
        append(tmp_path / "r" / "records.jsonl", record(model, ms, runner))
    path = tmp_path / "README.md"
    path.write_text(TEXT)
    return path


def test_tables_are_written_between_their_marks(readme: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(readme)]) == 0
    text = readme.read_text()
    assert "2 of 2 tables" in capsys.readouterr().out
    assert "what stood there before" not in text
    assert text.startswith(
        "# Title\n\n<!-- table: mine from r/records.jsonl -->\n\nA, 2 cores, 1 thread; single-stream"
    )
    assert "<!-- end -->\n\nBetween, with | a bar | and <!-- another comment -->\n\n" in text
    assert text.endswith("<!-- end -->\n\ntail\n")
    both, one = (part.partition("<!-- end -->")[0] for part in text.split("<!-- table:")[1:])
    lines = [line for line in both.splitlines() if line.startswith("|")]
    times = "\N{MULTIPLICATION SIGN}"
    assert lines[0] == (
        f"| model | torch, ms | {times} | ort-cpu, ms | {times} | paper, ms | paper {times} "
        "| top-1, % (paper, not measured) |"
    )
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        ["| a", "9.999"], ["| b", "19.999 u"], ["| c", "\N{EN DASH}"],
    ]  # fmt: skip
    assert "ort-cpu" in one and "torch" not in one


def test_check_tells_which_table_is_stale(readme: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = readme.read_text()
    assert main([str(readme), "--check"]) == 1
    assert readme.read_text() == before
    assert main([str(readme)]) == 0
    assert main([str(readme), "--check"]) == 0
    text = readme.read_text()
    readme.write_text(text.replace("19.999 u", "19.998 u"))
    capsys.readouterr()
    assert main([str(readme), "--check"]) == 1
    error = capsys.readouterr().err
    assert "mine from r/records.jsonl" in error and "mine ort-cpu" not in error
    assert f"python -m irepdeploy.bench.tools.readme_tables {readme}" in error
    # A new measurement makes both stale; a change of the surrounding text does not.
    readme.write_text(text.replace("tail", "another tail"))
    assert main([str(readme), "--check"]) == 0
    append(readme.parent / "r" / "records.jsonl", record("d", 7.0, "ort-cpu"))
    assert refreshed(text, readme.parent)[1] == [line for line in text.splitlines() if line.startswith("<!-- table")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- table: mine from nowhere.jsonl -->\n<!-- end -->", "no such"),
        ("<!-- table: other from r/records.jsonl -->\n<!-- end -->", "no measurement of other"),
        ("<!-- table: mine tpu from r/records.jsonl -->\n<!-- end -->", "no measurement of mine by tpu"),
        ("<!-- table: mine from r/records.jsonl -->\n", "without an end"),
        (
            "<!-- table: mine from r/records.jsonl -->\n<!-- table: mine from r/records.jsonl -->\n<!-- end -->",
            "without",
        ),
    ],
)
def test_a_table_that_cannot_be_made_is_an_error(
    readme: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=said):
        refreshed(text, readme.parent)
    readme.write_text(text)
    assert main([str(readme), "--check"]) == 2
    assert said in capsys.readouterr().err and readme.read_text() == text


def test_a_file_without_tables_stays_as_it_is(tmp_path: Path) -> None:
    assert refreshed("# nothing\n<!-- end -->\n", tmp_path) == ("# nothing\n<!-- end -->\n", [])
    assert main([str(tmp_path / "none.md")]) == 2


def test_devices_stand_apart_and_samples_of_other_suites_have_a_table(readme: Path) -> None:
    path = readme.parent / "r" / "records.jsonl"
    other: Callable[..., Record] = record
    append(path, other("a", 3.0, "torch", system={"board": "Nano"}))
    with path.open("a") as file:
        file.write('{"suite": "table1", "batch": 8, "samples_ns": {"naive": [2000000000], "fused": [1000000000]}}\n')
    text, _ = refreshed("<!-- table: mine from r/records.jsonl -->\n<!-- end -->", readme.parent)
    assert text.index("A, 2 cores") < text.index("\nNano, ") and text.count("| model |") == 2
    text, _ = refreshed("<!-- table: table1 from r/records.jsonl -->\n<!-- end -->", readme.parent)
    assert "| naive | 2.00 | 1 |" in text and "batch 8" in text


def test_convolutions_by_tool(tmp_path: Path) -> None:
    convolutions = {"as exported": 12, **dict.fromkeys(TOOLS, "fails"), "irepdeploy": 6}
    samples = {"given": [4_000_000] * 64, "collapsed": [1_000_000] * 64}
    network = {"convolutions": convolutions, "deploy_form": None, "error": 2e-7, "collapse_s": 0.5}
    line = {
        "benchmark": "collapse",
        "versions": {"torch": "2"},
        "networks": {"acnet": {**network, "samples_ns": samples}},
    }
    (tmp_path / "r.jsonl").write_text(json.dumps(line))
    text, _ = refreshed("<!-- table: collapse from r.jsonl -->\n<!-- end -->", tmp_path)
    assert "torch 2." in text
    assert "| acnet | 12 |" in text and "| 6 | - | 2e-07 | 0.50 | 4.00 | 1.00 | 0.25x [0.25, 0.25] |" in text


def test_merged_steps_and_rankings(tmp_path: Path) -> None:
    facts = {"benchmark": "merged step, accuracy", "recipe": "digits", "overrides": ["a=1"]}
    figures = {"exact": [(0.80, 10.0), (0.82, 10.0)], "merged": [(0.81, 5.0), (0.82, 6.0)], "plain": [(0.79, None)]}
    lines = [
        {**facts, "estimator": name, "seed": seed, "test": test, "cpu_seconds_per_epoch": seconds}
        for name, runs in figures.items()
        for seed, (test, seconds) in enumerate(runs)
    ]
    ranked = {"benchmark": "merged step, ranking", "recipe": "digits", "overrides": [], "cpu_seconds_per_epoch": None}
    lines += [
        {**ranked, "step": step, "seed": 0, "accuracy": [0.1, 0.2], "loss": [1, 1]} for step in ("exact", "merged")
    ]
    (tmp_path / "record.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = "".join(
        f"<!-- table: {name} from record.jsonl -->\n<!-- end -->\n" for name in ("merged-step", "merged-ranking")
    )
    text, _ = refreshed(page, tmp_path)
    assert "`digits a=1`:" in text and "| exact | 2 | 81.00 | - | 1.00 |" in text
    # Differences 1 and 0: mean 0.5, deviation 0.7071, t(1) 12.706.
    assert "| merged | 2 | 81.50 | +0.50 [-5.85, +6.85] | 0.55 |" in text
    assert "| plain | 1 | 79.00 | -1.00 | - |" in text
    assert "| merged, exact of the same seed | 1 | 1.00 | 1.00 to 1.00 |" in text
    (tmp_path / "record.jsonl").write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(InputError, match="no measurement of 'merged step, ranking'"):
        refreshed(page, tmp_path)


def test_tables_of_scoring_and_of_ratios(tmp_path: Path) -> None:
    line = {
        "suite": "table1", "network": "n", "device": "2 CPU threads", "seed": 0, "images": 500, "population": 4,
        "candidates_per_round": 2, "naive_candidates_per_round": 1, "fuse_ns": [4_000_000_000] * 3,
        "samples_ns": {"naive": [8_000_000_000] * 3, "fused": [6_000_000_000] * 3}, "system": {"cpu": {"model": "C"}},
    }  # fmt: skip
    (tmp_path / "r.jsonl").write_text(json.dumps(line) + "\n")
    text = "<!-- table: scoring from r.jsonl -->\n<!-- end -->\n<!-- table: ratios from r.jsonl -->\n<!-- end -->\n"
    scoring, ratios = refreshed(text, tmp_path)[0].split("<!-- end -->")[:2]
    # 6 s for two candidates, and a quarter of a fuse of 4 s: 4 s a candidate of 500 images.
    assert "C, 2 CPU threads; population of 4." in scoring
    assert "| n | naive | 16.000 | 1 |" in scoring and "| n | fused | 8.000 | 2.00 |" in scoring
    assert "| naive | 8 | 1 |" in ratios and "| fused | 6 | 0.750 |" in ratios
    with pytest.raises(InputError, match="no record"):
        (tmp_path / "r.jsonl").write_text("")
        refreshed(text, tmp_path)
