"""The protocol of docs/does-it-pay.md: its cells, how they are run and resumed, and its tables."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from irepdeploy.errors import InputError, IrepdeployError
from irepdeploy.parsing.json_text import unsealed
from irepdeploy.runs.reproduction import (
    RECORDS,
    ReproducedCell,
    RescoredPopulation,
    append_cell,
    paired,
    read_cells,
)
from irepdeploy.runs.result import TrainingResult
from irepdeploy.runs.spread import student_interval
from irepdeploy.search.execution.ranks import Ranks
from irepdeploy.search.jobs import Job
from irepdeploy.search.reproduction import cells as cells_module
from irepdeploy.search.reproduction import run as run_module
from irepdeploy.search.reproduction import tables as tables_module
from irepdeploy.search.reproduction.cells import Cell, cells_of, chosen_trial, settings_of
from irepdeploy.search.reproduction.command import reproduce
from irepdeploy.search.reproduction.hours import hours_of, total_hours
from irepdeploy.search.reproduction.protocol import ARMS, PROTOCOLS, QUESTIONS, Protocol
from irepdeploy.search.reproduction.run import drawn, measured_in, records_in, run_cells
from irepdeploy.search.reproduction.table import Table, markdown_of
from irepdeploy.search.reproduction.tables import comparison_of, tables_of

FASHION = PROTOCOLS["fashion-mnist"]
COMPACT = FASHION.networks[:1]


def tiny() -> Protocol:
    smoke = FASHION.smoke
    overrides = ("scale=smoke", "net.args.stages=[[4, 4], [6]]")
    return replace(smoke, networks=(replace(smoke.networks[0], overrides=overrides),), seeds=(0,))


@pytest.fixture
def two_arms(monkeypatch: pytest.MonkeyPatch) -> Protocol:
    """The tiny protocol with the arms plain and acnet, whose networks are not exported: 4 trials, 2 finals."""
    monkeypatch.setitem(QUESTIONS, "2", ("plain", "acnet"))
    monkeypatch.setattr(run_module, "_structure", lambda folder: "a" * 64)
    return tiny()


def made(cells: Sequence[Cell], out: Path, job: str = "one", **options: Any) -> run_module.Outcome:
    return run_cells(cells, out, out / job, ranks=Ranks.alone(), **options)


def timeless(done: dict[str, ReproducedCell]) -> dict[str, Any]:
    clock = {"seconds", "seconds_per_epoch"}
    return {key: (cell.settings, cell.result.model_dump(exclude=clock)) for key, cell in done.items()}


def test_table_2_has_six_trials_for_each_tuned_arm_and_five_seeds_for_each_arm() -> None:
    cells = cells_of(FASHION, ["2"], COMPACT)
    trials = [cell for cell in cells if cell.stage == "trial"]
    # DES uses the settings of the arm drawn from the same space and budget, and needs no further trials.
    assert {cell.arm.name for cell in trials} == set(QUESTIONS["2"]) - {"des 2/3"}
    assert len(trials) == 7 * 6 and len(cells) - len(trials) == 8 * 5
    assert not any(cell.arm.strategy for cell in trials)
    assert {cell.seed for cell in trials}.isdisjoint(cell.seed for cell in cells if cell.stage == "final")


def test_no_cell_is_twice_and_every_trial_comes_before_what_it_decides() -> None:
    cells = cells_of(FASHION, list(QUESTIONS), COMPACT)
    assert len({cell.key for cell in cells}) == len({cell.folder for cell in cells}) == len(cells) == 354
    at = {cell.key: place for place, cell in enumerate(cells)}
    assert all(at[trial.key] < at[cell.key] for cell in cells for trial in cell.trials)
    assert {trial.condition for cell in cells for trial in cell.trials} == {FASHION.main}
    # Added cells come last, so that jobs started before keep their shares.
    asked = ["2", "5", "search", "axes"]
    before = [cell for cell in cells_of(FASHION, asked, FASHION.networks) if cell.stage != "scoring"]
    assert cells_of(FASHION, list(QUESTIONS), FASHION.networks)[: len(before)] == before
    assert len(before) == 3 * 264
    shares = [Job(number, 7).share(cells) for number in range(1, 8)]
    assert sorted(cell.key for share in shares for cell in share) == sorted(at)


def test_hours_are_those_of_the_steps() -> None:
    plain, every = (
        next(cell for cell in cells_of(FASHION, ["2"], COMPACT) if cell.arm.name == name) for name in ("plain", "all")
    )
    scoring = 5000 / 128 / 3
    assert hours_of(plain) == pytest.approx(40 * (40 + scoring) * 0.037 / 3600)
    assert hours_of(every) == pytest.approx(40 * (40 * (1 + 0.98 * 9) + scoring) * 0.037 / 3600)
    assert hours_of(every, merged=True) == pytest.approx(40 * (40 * 2.8 + scoring) * 0.037 / 3600)
    searched = Cell(FASHION, COMPACT[0], FASHION.main, ARMS["des 2/3"], "final", 0)
    # 6 of 9 branches; warm-up of 2 epochs with all, 8 evolutions of one epoch with 2 subnets, 24 candidates each.
    search = 40 * (2 * (1 + 0.98 * 9) + 8 * 2 * (1 + 0.98 * 6)) + 8 * 24 * scoring
    training = 40 * (40 * (1 + 0.98 * 6) + scoring)
    assert hours_of(searched) == pytest.approx((training + search) * 0.037 / 3600)
    control = Cell(FASHION.merged, COMPACT[0], FASHION.main, ARMS["all, exact step"], "final", 0)
    assert hours_of(control, merged=True) == hours_of(every)
    early = Cell(FASHION, COMPACT[0], FASHION.main, ARMS["all, fused at 3/4"], "final", 0)
    assert hours_of(early) == pytest.approx(40 * (40 * (0.75 * (1 + 0.98 * 9) + 0.25) + scoring) * 0.037 / 3600)
    [timing] = cells_of(FASHION, ["1"], COMPACT)
    assert hours_of(timing) == pytest.approx(24 * (2 * (1 + 0.98 * 6) + 1) * scoring * 0.037 / 3600)
    again = next(cell for cell in cells_of(FASHION, ["search"], COMPACT) if cell.stage == "scoring")
    anew = 5 * (8 * (1 + 0.98 * 6) / 3 + scoring)
    assert hours_of(again) == pytest.approx(24 * (scoring + anew) * 0.037 / 3600)
    cifar = PROTOCOLS["cifar10"]
    assert total_hours(cells_of(cifar, ["2"], cifar.networks)) is None


def test_a_killed_run_goes_on_to_the_same_records(two_arms: Protocol, tmp_path: Path) -> None:
    cells = [cell for cell in cells_of(two_arms, ["2"], two_arms.networks) if cell.arm.name == "acnet"]
    assert made(cells, tmp_path / "whole").made == 3
    whole = records_in(tmp_path / "whole")
    # The time is up within the first trial, at its end, and within the second.
    assert [made(cells, tmp_path / "halted", hours=0).stopped for _ in range(3)] == [True] * 3
    assert len(records_in(tmp_path / "halted")) == 1
    assert made(cells, tmp_path / "halted").made == 2
    assert timeless(records_in(tmp_path / "halted")) == timeless(whole)
    lines = (tmp_path / "halted" / "one" / RECORDS).read_text().splitlines()
    assert len(lines) == 3 and made(cells, tmp_path / "halted").made == 0
    trials = [cell for cell in whole.values() if cell.stage == "trial"]
    assert [cell.result.test_accuracy for cell in trials] == [None] * 2
    finals = [cell for cell in whole.values() if cell.stage == "final"]
    assert all(cell.result.test_accuracy is not None for cell in finals)
    for cell in finals:
        scores = [trial.result.val_accuracy for trial in trials if trial.arm == cell.arm]
        assert cell.settings == vars(two_arms.grid[scores.index(max(scores))])
        assert cell.recipe["train"]["weights"]["lr"] == cell.settings["lr"]


def test_jobs_wait_for_the_trials_of_others(two_arms: Protocol, tmp_path: Path) -> None:
    cells = cells_of(two_arms, ["2"], two_arms.networks)
    trials, finals = cells[:4], cells[4:]
    outcome = made([*trials[:1], *finals], tmp_path, "one")
    assert (outcome.made, len(outcome.waiting)) == (1, 2)
    made(trials[1:], tmp_path, "two")
    assert made([*trials[:1], *finals], tmp_path, "one").made == 2
    assert set(records_in(tmp_path)) == {cell.key for cell in cells}


def test_trials_that_another_job_finishes_are_used_at_once(two_arms: Protocol, tmp_path: Path) -> None:
    first, second, plain, *others = cells_of(two_arms, ["2"], two_arms.networks)
    assert plain.arm.name == "acnet" and others[1].arm.name == "plain"
    order = []

    def told(cells: int, note: str) -> None:
        order.extend([note.partition("  ")[0]] * cells)
        if cells and note.startswith(first.key):
            made([second], tmp_path, "two")

    final = others[1]
    made([first, final, plain], tmp_path, "one", advance=told)
    assert order == [first.key, final.key, plain.key]


def test_a_damaged_line_of_another_job_is_named_once(
    two_arms: Protocol, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial, *_, final, other = cells_of(two_arms, ["2"], two_arms.networks)
    (tmp_path / "two").mkdir()
    append_cell(tmp_path / "two" / RECORDS, record(trial, None))
    with (tmp_path / "two" / RECORDS).open("a") as file:
        file.write("damaged\n")
    assert made([final, other], tmp_path).waiting == (final, other)
    assert capsys.readouterr().err.count("omitted") == 1


@pytest.mark.parametrize("budget", ["1/6", "4/block"])
def test_a_drawn_architecture_spends_the_budget(budget: str) -> None:
    protocol = tiny()
    cell = Cell(protocol, protocol.networks[0], protocol.main, replace(ARMS["drawn 2/3"], budget=budget), "final", 3)
    plan = cells_module.recipe_of_cell(cell, protocol.grid[0])
    # 25 possible branches: 8 + 9 + 8.
    assert drawn(plan, Ranks.alone()).count == {"1/6": 4, "4/block": 12}[budget]
    assert drawn(plan, Ranks.alone()) != drawn(plan.model_copy(update={"seed": 4}), Ranks.alone())


@pytest.mark.slow
def test_candidates_are_those_of_the_last_population(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    protocol = replace(tiny(), grid=FASHION.grid[:1], candidates=2)
    monkeypatch.setitem(QUESTIONS, "search", ("random 2/3",))
    monkeypatch.setattr(run_module, "_structure", lambda folder: None)
    cells = cells_of(protocol, ["search"], protocol.networks)
    assert [cell.stage for cell in cells] == ["trial", "final", *["candidate"] * 2, "scoring"]
    made(cells, tmp_path)
    done = [records_in(tmp_path)[cell.key] for cell in cells[:-1]]
    final, candidates = done[1], done[2:]
    assert candidates[0].architecture == final.architecture and candidates[0].score == final.score
    scores = [cell.score for cell in candidates if cell.score is not None]
    assert len({json.dumps(cell.architecture) for cell in candidates}) == 2
    assert scores == sorted(scores, reverse=True)
    again = measured_in(tmp_path)[cells[-1].key]
    assert isinstance(again, RescoredPopulation) and [value for value, _ in again.whole][:2] == scores
    # One search made them all.
    assert len(list((tmp_path / "one").glob("search-*"))) == 1


def record(cell: Cell, test: float | None, val: float = 0.5, **changes: Any) -> ReproducedCell:
    result = TrainingResult(
        branches=0,
        val_accuracy=val,
        test_accuracy=test,
        best_epoch=1,
        epochs=1,
        seconds_per_epoch=1.0,
        seconds=2.0,
        device="cpu",
        devices=1,
    )
    facts: dict[str, Any] = {
        "protocol": cell.protocol.name,
        "version": FASHION.version,
        "cell": cell.key,
        "stage": cell.stage,
        "arm": cell.arm.name,
        "network": cell.network.name,
        "condition": cell.condition.label,
        "place": cell.place,
        "seed": cell.seed,
        "settings": vars(FASHION.grid[1]),
        "result": result,
        "recipe": {},
        "created": "now",
        "system": {},
    }
    return ReproducedCell(**{**facts, **changes})


def final(arm: str, seed: int) -> Cell:
    return Cell(FASHION, COMPACT[0], FASHION.main, ARMS[arm], "final", seed)


def test_a_table_by_hand() -> None:
    tests = {
        "plain": [0.880, 0.881, 0.882, 0.883, 0.884],
        # 1.0, 1.2, 1.4, 1.2, 1.2 points above: mean 1.2, deviation 0.1414, t(4) 2.7764: half 0.1756.
        "all": [0.890, 0.893, 0.896, 0.895, 0.896],
        # -0.5, 0.5, 0, 0, 0: half 0.4390.
        "dbb": [0.875, 0.886, 0.882, 0.883, 0.884],
        "acnet": [0.880, 0.881],
    }
    digests = {"dbb": "b" * 64, "acnet": None}
    done = {
        cell.key: record(cell, test, structure=digests.get(arm, "a" * 64))
        for arm, values in tests.items()
        for seed, test in enumerate(values)
        for cell in [final(arm, seed)]
    }
    [table] = tables_of(FASHION, done, ["2"], COMPACT)
    cells = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    # Arms without a record are omitted.
    assert [row[0] for row in table.rows] == ["plain", "acnet", "dbb", "all"]
    assert cells["all"]["difference from plain"] == "+1.20 [+1.02, +1.38]"
    assert cells["all"]["verdict"] == "better"
    assert cells["dbb"]["difference from plain"] == "+0.00 [-0.44, +0.44]"
    assert cells["dbb"]["verdict"] == "undecided"
    assert cells["acnet"]["seeds"] == "2 of 5" and cells["acnet"]["structure"] == "not shown"
    assert cells["acnet"]["verdict"] == "within 0.3"
    assert cells["plain"]["test %"] == "88.20 +- 0.16"
    assert cells["plain"]["lr, decay, schedule"] == "0.03, 0.0005, step, end of the grid"
    assert cells["dbb"]["structure"] == "differs"
    drawn_runs = comparison_of(FASHION, done, "2", COMPACT[0], FASHION.main)
    assert drawn_runs is not None and drawn_runs.presets == ("plain", "dbb", "all")


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.002, "yes"), (0.004, "no: go by the verdicts of the longer training")]
)
def test_whether_the_training_was_long_enough(gain: float, verdict: str) -> None:
    longest, further = FASHION.axes[1], FASHION.equal_time[2].plain
    assert [each.label for each in (longest, further)] == ["5,120 images, 4,800 steps", "5,120 images, 9,600 steps"]
    cells = {each: Cell(FASHION, COMPACT[0], each, ARMS["plain"], "final", 0) for each in (FASHION.main, longest)}
    done = {cell.key: record(cell, 0.88 + gain * (each is longest)) for each, cell in cells.items()}
    [table] = [each for each in tables_of(FASHION, done, ["axes"], COMPACT) if "long enough" in each.title]
    assert table.rows == ((FASHION.main.label, longest.label, "1 of 5", f"+{100 * gain:.2f}", verdict),)
    assert not any("long enough" in each.title for each in tables_of(FASHION, done, ["2"], COMPACT))
    # Each length is compared with the one before.
    cell = Cell(FASHION, COMPACT[0], further, ARMS["plain"], "final", 0)
    done[cell.key] = record(cell, 0.881 + gain)
    [table] = [each for each in tables_of(FASHION, done, ["axes"], COMPACT) if "long enough" in each.title]
    assert table.rows[1] == (longest.label, further.label, "1 of 5", "+0.10", "yes")


def test_branches_are_compared_with_a_plain_network_that_trains_as_long() -> None:
    """Each pair has conditions of its own; those without records are left out."""
    merged, longest = FASHION.merged, FASHION.axes[1]
    tests = {("plain", FASHION.main): 0.87, ("all", FASHION.main): 0.885, ("plain", longest): 0.89}
    done = {
        cell.key: record(cell, test + seed / 1000 + (seed == 1 and arm == "all") / 1000)
        for (arm, condition), test in tests.items()
        for seed in range(3)
        for cell in [Cell(merged, merged.networks[0], condition, ARMS[arm], "final", seed)]
    }
    [table] = tables_of(merged, done, ["time"], merged.networks[:1])
    [row] = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (row["arm"], row["condition"], row["plain's condition"]) == (
        "all", "5,120 images, 1,600 steps", "5,120 images, 4,800 steps"
    )  # fmt: skip
    assert (row["seeds"], row["plain's test %"]) == ("3 of 5", "89.10 +- 0.10")
    # -0.5, -0.4, -0.5; t(2) 4.303, and 8.860 at a fourth of 5 %, for the four pairs: -0.76 to -0.17.
    assert (row["difference from plain"], row["verdict"]) == ("-0.47 [-0.61, -0.32]", "worse")
    assert tables_of(FASHION, done, ["time"], FASHION.networks) == []


def test_a_plain_network_trains_about_as_long_as_the_branches_it_is_compared_with() -> None:
    cells = cells_of(FASHION.merged, ["time"], FASHION.networks[:1])
    finals = {(cell.arm.name, cell.condition) for cell in cells if cell.stage == "final"}
    assert len(finals) * len(FASHION.seeds) == sum(cell.stage == "final" for cell in cells) == 7 * 5
    for pair in FASHION.equal_time:
        assert {(pair.arm, pair.condition), ("plain", pair.plain)} <= finals
        assert pair.condition.images == pair.plain.images
        # Time of a training with merged steps, in plain ones, rounded.
        assert (pair.plain.epochs or 0) >= {"dbb": 2, "all": 3}[pair.arm] * (pair.condition.epochs or 0)


def test_notes_that_tables_share_stand_once_in_markdown() -> None:
    one = Table("One", ("a", "b"), (("x|y", "1"),), ("same", "own"))
    text = markdown_of([one, replace(one, title="Two", notes=("same",))])
    grid = "| a | b |\n| :--- | :--- |\n| x\\|y | 1 |"
    assert text == f"**One**\n\n{grid}\n\n- same\n- own\n\n**Two**\n\n{grid}"


def test_what_helps_is_compared_with_plain_with_all_and_with_plain_so_changed() -> None:
    tests = {"plain": 0.88, "all": 0.87, "plain, average": 0.89, "all, average": 0.885, "all, no decay": 0.872}
    done = {
        cell.key: record(cell, test + seed / 1000)
        for arm, test in tests.items()
        for seed in range(5)
        for cell in [final(arm, seed)]
    }
    [table] = tables_of(FASHION, done, ["helps"], COMPACT)
    heads = [head for head in table.columns if "from" in head]
    assert heads == ["difference from plain", "difference from all", "difference from plain with the same change"]
    cells = {
        row[0]: [text for head, text in zip(table.columns, row, strict=True) if head in heads] for row in table.rows
    }
    assert [text.split()[0] for text in cells["all, average"]] == ["+0.50", "+1.50", "-0.50"]
    assert [text.split()[0] for text in cells["all, no decay"]] == ["-0.80", "+0.20", "-"]
    assert [text.split()[0] for text in cells["plain, average"]] == ["+1.00", "-", "-"]
    assert cells["plain"] == ["-"] * 3
    # 9 from plain, 6 from all, 2 from plain with the same change.
    assert "17 pairs" in table.notes[-1]


def test_budgets_are_compared_with_plain_and_with_all() -> None:
    tests = {"plain": 0.87, "all": 0.88, "des 2/3": 0.875}
    done = {cell.key: record(cell, test) for arm, test in tests.items() for cell in [final(arm, 0)]}
    [table] = tables_of(FASHION, done, ["5"], COMPACT)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    found = {arm: (row["difference from plain"], row["difference from all"]) for arm, row in rows.items()}
    assert found == {"plain": ("-", "-"), "des 2/3": ("+0.50", "-0.50"), "all": ("+1.00", "-")}
    # 6 from plain, 5 from all.
    assert "11 pairs" in table.notes[-1]


def test_strategies_are_compared_with_random_with_all_and_des_with_its_undirected_form() -> None:
    tests = {"random 2/3": 0.87, "des 2/3": 0.875, "evolution 2/3": 0.88, "topk 2/3": 0.865}
    done = {cell.key: record(cell, test) for arm, test in tests.items() for cell in [final(arm, 0)]}
    for beside in (False, True):
        if beside:
            done[final("all", 0).key] = record(final("all", 0), 0.89)
        [table] = tables_of(FASHION, done, ["search"], COMPACT)
        assert table.title == "Does the search pay? compact6, 5,120 images, 1,600 steps"
        rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
        labels = ("random 2/3", "evolution 2/3", "all")
        found = {arm: tuple(row[f"difference from {label}"] for label in labels) for arm, row in rows.items()}
        assert found == {
            "random 2/3": ("-", "-", "-2.00" if beside else "-"),
            "des 2/3": ("+0.50", "-0.50", "-1.50" if beside else "-"),
            "evolution 2/3": ("+1.00", "-", "-1.00" if beside else "-"),
            "topk 2/3": ("-0.50", "-", "-2.50" if beside else "-"),
        }
        # 4 from random, 1 from evolution, 5 from all.
        assert "10 pairs" in table.notes[-1]


@pytest.mark.parametrize("protocol", [FASHION, FASHION.smoke], ids=["whole", "smoke"])
def test_what_may_help_changes_one_thing(protocol: Protocol) -> None:
    found = {}
    for name in QUESTIONS["helps"]:
        cell = Cell(protocol, protocol.networks[0], protocol.main, ARMS[name], "final", 0)
        found[name] = cells_module.recipe_of_cell(cell, protocol.grid[0]).train.model_dump(context={"whole": True})
    changes = {
        name: {key: value for key, value in train.items() if value != found[name.partition(", ")[0]][key]}
        for name, train in found.items()
    }
    epochs = {} if protocol is not FASHION else {"warmup_epochs": 5}
    assert changes == {
        "plain": {}, "all": {},
        "plain, long warm-up": epochs or {"warmup_epochs": 1}, "all, long warm-up": epochs or {"warmup_epochs": 1},
        "plain, average": {"ema": 0.995}, "all, average": {"ema": 0.995},
        "all, from zero": {"branch_init": "zero"}, "all, rate 0.3": {"branch_lr": 0.3},
        "all, no decay": {"branch_decay": 0.0}, "all, fused at 3/4": {"fuse_at": 0.75},
    }  # fmt: skip


def test_what_only_its_own_interval_decides_is_said() -> None:
    base = dict.fromkeys(range(5), 0.5)
    # Mean 0.3, deviation 0.2: half 0.2483 alone; at a seventh of 5 %, t(4) 5.07, 0.4533.
    one = {seed: 0.5 + gain / 100 for seed, gain in enumerate((0.05, 0.2, 0.3, 0.35, 0.6))}
    alone, among = paired(one, base), paired(one, base, 7)
    assert alone is not None and among is not None
    assert (alone.verdict, among.verdict) == ("better", "better, alone")
    worse = paired(base, one)
    assert worse is not None and worse.verdict == "worse"
    single = paired({3: 0.6}, {3: 0.5})
    assert single is not None and (single.text, single.verdict) == ("+10.00", "undecided")
    assert paired({1: 0.5}, {2: 0.5}) is None


def test_the_interval_of_a_mean_by_hand() -> None:
    # t(2) at 95 %: 4.3027; deviation 0.1.
    assert student_interval([0.1, 0.3, 0.2]) == pytest.approx((0.2 - 0.24842, 0.2 + 0.24842), abs=1e-5)
    assert student_interval([1.0]) is None


def test_the_best_trial_decides_and_of_equals_the_first() -> None:
    cell = final("des 2/3", 0)
    assert {trial.arm.name for trial in cell.trials} == {"drawn 2/3"}
    scores = [0.1, 0.7, 0.3, 0.7, 0.2, 0.2]
    done = {trial.key: record(trial, None, val) for trial, val in zip(cell.trials, scores, strict=True)}
    assert chosen_trial(cell, done) == 1
    assert settings_of(cell, done) == FASHION.grid[1]
    del done[cell.trials[-1].key]
    assert settings_of(cell, done) is None


def test_the_ranking_of_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_module, "_DRAWS", 20)
    cells = [
        Cell(FASHION, COMPACT[0], FASHION.main, ARMS["random 2/3"], "candidate", seed, place)
        for place in range(6)
        for seed in FASHION.candidate_seeds
    ]
    done = {cell.key: record(cell, 0.9 - cell.place / 100, score=0.8 - cell.place / 10) for cell in cells}
    [table] = tables_of(FASHION, done, ["search"], COMPACT)
    assert table.rows[0][1:] == ("6", "+1.00 [+1.00, +1.00]")
    assert [row[0] for row in table.rows] == ["supernet's score, mean of retrainings", "one retraining, another"]
    assert "deviation of 1.87 points; the noise of the seeds alone would give 0.00." in table.notes[-1]
    # Two seeds 0.02 apart: a deviation of 0.01 * sqrt(2), and of 0.01 for their mean.
    noisy = {cell.key: record(cell, 0.9 + cell.seed / 50, score=0.5) for cell in cells}
    [table] = tables_of(FASHION, noisy, ["search"], COMPACT)
    assert "deviation of 0.00 points; the noise of the seeds alone would give 1.00." in table.notes[-1]


def test_records_are_read_once_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / RECORDS
    first, second = record(final("plain", 0), 0.5), record(final("plain", 0), 0.6)
    append_cell(path, first)
    append_cell(path, second)
    assert read_cells([path]) == {first.cell: first}
    content = unsealed(json.loads(path.read_text().splitlines()[0]))
    path.write_text(json.dumps({**content, "stage": "trail"}) + "\n")
    with pytest.raises(InputError, match="line 1"):
        read_cells([path])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["mnist"], "unknown protocol 'mnist'"),
        (
            ["fashion-mnist", "--table", "3"],
            "--table: unknown question '3' (one of 2, 5, search, axes, helps, step, time, 1)",
        ),
        (["fashion-mnist", "--network", "vgg16"], "--network: unknown network 'vgg16' in fashion-mnist"),
        (["fashion-mnist", "--job", "3/2"], "--job: expected a job"),
        (["fashion-mnist", "--table", "2", "--job", "1/9999"], "9999 jobs for 246 runs"),
        (["cifar10", "--table", "axes"], "cifar10 has no such cells"),
    ],
)
def test_bad_input_is_one_line(args: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(IrepdeployError) as caught:
        called(*args, "--out", str(tmp_path / "out"))
    assert words in caught.value.line and "\n" not in caught.value.line
    assert not (tmp_path / "out").exists()


def called(*args: str) -> None:
    app = typer.Typer()
    app.command()(reproduce)
    app(list(args), standalone_mode=False)


def test_the_list_says_the_hours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    called("fashion-mnist", "--table", "2", "--network", "compact6", "--list", "--out", str(tmp_path / "none"))
    text = capsys.readouterr().out
    assert re.search(r"compact6 +5,120 images, 1,600 steps +plain +trial +6 +0 +0\.13", text)
    assert "82 cells, 0 done; 82 to make, about 7.6 hours on a core" in text
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("scale", [[], ["--smoke"]])
def test_merged_steps_are_a_protocol_of_their_own(
    scale: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Cell] = []
    monkeypatch.setattr(
        run_module, "run_cells", lambda cells, *_, **__: seen.extend(cells) or run_module.Outcome(0, (), stopped=False)
    )
    called("fashion-mnist", "--table", "2", "--merged", *scale, "--out", str(tmp_path))
    exact = {cell.key for cell in cells_of(FASHION.smoke if scale else FASHION, ["2"], FASHION.networks[:1])}
    assert exact.isdisjoint(cell.key for cell in seen)
    plan = cells_module.recipe_of_cell(seen[0], None)
    assert (plan.train.step, plan.search.step) == ("merged", "merged")
    # Whether this changes the answer is only asked along with them, with the same settings.
    cells = cells_of(FASHION.merged, ["step"], FASHION.networks[:1])
    controls = [cell for cell in cells if cell.arm.name == "all, exact step"]
    assert {cell.stage for cell in controls} == {"final"} and len(controls) == len(FASHION.seeds)
    assert cells_module.recipe_of_cell(controls[0], FASHION.grid[0]).train.step == "exact"
    with pytest.raises(InputError, match="no such cells"):
        cells_of(FASHION, ["step"], FASHION.networks)


@pytest.mark.slow
def test_the_smoke_protocol_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("fashion-mnist", "--smoke", "--table", "2", "--network", "compact6", "--out", str(tmp_path))
    called(*args, "--json")
    [table] = json.loads(capsys.readouterr().out)
    # Whatever branches were trained, the fused networks are the same graph.
    assert [row[-1] for row in table["rows"]] == ["same"] * 8
    assert (tmp_path / "compact6-2.png").exists()
    assert json.loads((tmp_path / "tables.json").read_text()) == [table]
