"""The benchmark of planning: its table, the limit of a process, and a run of two versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import irepdeploy
from irepdeploy.bench.tools.planning import measure_planning, planning_table, subjects

HEADS = ["network", "nodes", "convolutions", "before, s", "x half", "now, s", "x half", "faster"]


def runs(*seconds: float) -> list[dict[str, Any]]:
    counts = {"given": {"nodes": 20, "convolutions": 9}, "collapsed": {"nodes": 12, "convolutions": 5}}
    return [{"cpu_s": each, "elapsed_s": each, **counts} for each in seconds]


def test_the_table() -> None:
    networks = {
        "chain of 4": {"before": runs(1.0, 3.0, 2.0), "now": runs(0.5)},
        "chain of 8": {"before": runs(8.0), "now": runs(1.0)},
        "chain of 16": {"before": [], "now": runs(2.5)},
        "DBB ResNet-18": {"before": runs(6.0), "now": runs(3.0)},
    }
    assert planning_table(networks) == (
        HEADS,
        [
            ["chain of 4", "20 -> 12", "9 -> 5", "2.00", "-", "0.50", "-", "4.0x"],
            ["chain of 8", "20 -> 12", "9 -> 5", "8.00", "4.0", "1.00", "2.0", "8.0x"],
            ["chain of 16", "20 -> 12", "9 -> 5", "-", "-", "2.50", "2.5", "-"],
            ["DBB ResNet-18", "20 -> 12", "9 -> 5", "6.00", "-", "3.00", "-", "2.0x"],
        ],
    )
    alone = {name: {"now": each["now"]} for name, each in networks.items()}
    assert planning_table(alone)[1][1] == ["chain of 8", "20 -> 12", "9 -> 5", "1.00", "2.0", "-"]


@pytest.mark.slow
def test_two_versions_in_turn() -> None:
    files = list(subjects([1, 2], only=()))
    found = measure_planning(files, Path(irepdeploy.__file__).parents[1], rounds=2)
    assert list(found) == ["chain of 1", "chain of 2"]
    for versions in found.values():
        assert {version: len(each) for version, each in versions.items()} == {"before": 2, "now": 2}
        assert all(run["cpu_s"] > 0 for each in versions.values() for run in each)
    # Importing alone takes longer, so the second chain is not tried.
    assert [each["now"] for each in measure_planning(files, rounds=2, most=1).values()] == [[], []]
