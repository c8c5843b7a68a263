"""The walk over third-party networks: limits, continuation, verdicts and tables."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from irepdeploy.bench.tools import ecosystem, ecosystem_network
from irepdeploy.bench.tools.ecosystem import main, outcome, read_walk
from irepdeploy.bench.tools.ecosystem_table import ecosystem_table, verdict_of
from irepdeploy.errors import CheckFailed, InputError, ModelError
from irepdeploy.network.nets.statistics import randomize_statistics

WORKS = {"verdict": "works", "cpu_s": 0.1}
Steps = Iterator[tuple[str, dict[str, Any]]]


def line(name: str, **ways: Any) -> dict[str, Any]:
    return {"network": name, "date": "2026-01-01", "torch": "2.0", **ways}


def fine(name: str) -> Steps:
    yield "opened", WORKS
    yield "network", {"size": 64}
    yield "branches", {"verdict": "nothing to do"}
    yield "export", {**WORKS, "convs": 3, "error": 1e-6}
    yield "collapse", {**WORKS, "convs": 3, "convs_before": 9}


def endless(name: str) -> Steps:
    yield "opened", WORKS
    threading.Event().wait()


def killed(name: str) -> Steps:
    yield "opened", WORKS
    os._exit(9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("walk", "reason"), [(endless, "took over 60 s"), (killed, "its process ended with 9")], ids=["endless", "killed"]
)
def test_a_network_that_never_ends_costs_only_itself(
    walk: Callable[[str], Steps], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecosystem_network, "walk", walk)
    # The time is up only once the first step has been reported.
    clock = iter([0.0, 0.0, 60.0 if walk is endless else 0.0])
    monkeypatch.setattr(ecosystem, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    found = outcome("timm/a", multiprocessing.get_context("fork"), 60, 60.0)
    assert found == {"opened": WORKS, "branches": {"verdict": "fails", "reason": reason}}
    assert verdict_of(line("timm/a", **found)) == "fails"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_walk_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(ecosystem_network, "walk", fine)
    monkeypatch.setattr(ecosystem.multiprocessing, "get_context", lambda kind: context)
    monkeypatch.setattr(type(context), "set_forkserver_preload", lambda self, names: None)
    monkeypatch.setattr(ecosystem, "version", lambda library: "1.0")
    walk, record = tmp_path / "walk.jsonl", tmp_path / "record.jsonl"
    old = line("timm/a", export={"verdict": "fails", "reason": "earlier"})
    record.write_text(json.dumps(old) + "\n" + json.dumps(line("timm/z", export=WORKS)) + "\n")
    walk.write_text(json.dumps(line("timm/b", export=WORKS)) + "\n")
    assert main(["timm/a", "timm/b", "--walk", str(walk), "--record", str(record)]) == 0
    assert [each["network"] for each in read_walk(walk)] == ["timm/b", "timm/a"]
    kept = {each["network"]: each for each in read_walk(record)}
    assert sorted(kept) == ["timm/a", "timm/b", "timm/z"]
    assert kept["timm/a"]["export"]["convs"] == 3 and kept["timm/a"]["size"] == 64 and kept["timm/a"]["timm"] == "1.0"


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"network": "timm/a"}\n')
    with pytest.raises(InputError, match="not a record of a walk"):
        read_walk(tmp_path / "r.jsonl")


def test_what_goes_wrong_on_a_way_is_its_outcome() -> None:
    def refused() -> dict[str, Any]:
        raise ModelError("no such operator", where="a")

    def crashes() -> dict[str, Any]:
        raise ZeroDivisionError("by hand")

    assert ecosystem_network._outcome(refused) == {"verdict": "refused", "reason": "a: no such operator", "cpu_s": 0.0}
    found = ecosystem_network._outcome(crashes)
    assert found["reason"] == "ZeroDivisionError: by hand" and found["place"].endswith("crashes")


def test_the_table_counts_and_names_what_does_not_work() -> None:
    bad = line("timm/b", opened=WORKS, export={"verdict": "refused", "reason": "a | b", "place": "x.py:1 f"})
    text = ecosystem_table([line("timm/a", **{way: found for way, found in fine("timm/a") if way != "network"}), bad])
    assert "| all | 2 | 1 | 50% | 0 | 1 |" in text
    assert r"| timm/b | fails | export | a \| b (x.py:1 f) |" in text
    assert "| a |  | nothing to do |  | 3 | 1e-06 | 9 to 3 |  |" in text


def test_the_table_shows_the_noise_behind_a_large_error() -> None:
    found = {**WORKS, "blocks": 2, "error": 3e-3, "noise": 2e-3}
    text = ecosystem_table([line("timm/a", branches=found, export={**found, "convs": 3, "error": 1e-5})])
    assert "| 2 | 3e-03 (noise 2e-03) | 3 | 1e-05 |" in text


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3, padding=1, bias=False), torch.nn.BatchNorm2d(6), torch.nn.ReLU()
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(image)
        return found


# torch's older exporter, which writes batch normalization as it is.
@pytest.mark.filterwarnings("ignore")
def test_every_way_tells_error_and_noise() -> None:
    torch.manual_seed(0)
    for way, go in ecosystem_network._WAYS.items():
        found = go(randomize_statistics(Tiny()).eval(), 16)
        assert found["error"] < 1e-5 and 0 < found["noise"] < 1e-5, way


def test_a_wrong_fuse_is_not_taken_for_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    fuse = ecosystem_network.irepdeploy.fuse

    def wrong(net: torch.nn.Module) -> torch.nn.Module:
        plain = fuse(net)
        next(plain.parameters()).data.mul_(1.001)
        return plain

    monkeypatch.setattr(ecosystem_network.irepdeploy, "fuse", wrong)
    with pytest.raises(CheckFailed):
        ecosystem_network._branches(randomize_statistics(Tiny()).eval(), 16)


def test_refusals_are_right_only_if_they_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = line("timm/a", export={"verdict": "refused", "reason": "reads values of a tensor"})
    assert verdict_of(refused) == "fails"
    monkeypatch.setattr("irepdeploy.bench.tools.ecosystem_table._RIGHT_REASONS", ("reads values",))
    assert verdict_of(refused) == "refused for a right reason"
    # A crash is never right.
    assert verdict_of(line("timm/a", export={"verdict": "fails", "reason": "reads values"})) == "fails"
