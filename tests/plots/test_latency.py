"""Latency against accuracy out of records: points, groups, front, picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from irepdeploy.errors import InputError
from irepdeploy.plots.figure import save_figure
from irepdeploy.plots.latency import draw_latency
from irepdeploy.plots.latency_points import by_device, latency_points, pareto_front, read_records
from irepdeploy.runs.record import Record, append

CPU = {"cpu": {"model": "A CPU"}, "gpu": [{"name": "A GPU"}]}
PAPER = "paper, not measured"


def record(model: str, ms: float, top1: Any = None, **changes: Any) -> Record:
    facts = {} if top1 is None else {"top1": top1, "top1_source": changes.pop("source", "result.json")}
    values: dict[str, Any] = {
        "suite": "models",
        "scenario": "single-stream",
        "model": model,
        "source": "onnx",
        "artefact_sha256": None,
        "runner": {"runner": "ort-cpu", "device": "cpu", "threads": 2},
        "precision": "fp32",
        "batch": 1,
        "input_shape": [1, 3, 224, 224],
        # 11 samples, of which the 10th and the 90th percentile are the second from either end.
        "samples_ns": [int(1e6 * ms) + 1000 * offset for offset in range(-5, 6)],
        "warmup": {},
        "protocol_version": 1,
        "system": CPU,
        "conditions": {},
        "argv": [],
        "created": "2026-01-01T00:00:00+00:00",
        "facts": facts,
    }
    return Record(**{**values, **changes})


def names(figure: Figure, panel: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def test_a_point_by_hand() -> None:
    (point,) = latency_points([record("a", 2, 75.5)])
    assert (point.label, point.top1, point.source, point.measured) == ("a", 75.5, "result.json", True)
    assert (point.latency_ms, point.low_ms, point.high_ms) == pytest.approx((2, 1.996, 2.004))
    assert point.conditions == "A CPU, ort-cpu, fp32, 2 threads, batch 1"
    assert point.place == (2, 75.5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"runner": {"runner": "trt", "device": "cuda"}}, "A GPU, trt, fp32, batch 1"),
        ({"runner": {"runner": "torch", "device": "cuda:0", "threads": 4}}, "A GPU, torch, fp32, batch 1"),
        ({"precision": "fp16", "batch": 8}, "A CPU, ort-cpu, fp16, 2 threads, batch 8"),
        ({"runner": {"runner": "ort-cpu", "threads": 1}}, "A CPU, ort-cpu, fp32, 1 thread, batch 1"),
        ({"conditions": {"tf32": "on"}}, "A CPU, ort-cpu, fp32, 2 threads, TF32, batch 1"),
        ({"conditions": {"tf32": "off"}}, "A CPU, ort-cpu, fp32, 2 threads, batch 1"),
        ({"scenario": "offline"}, "A CPU, ort-cpu, fp32, 2 threads, batch 1, offline"),
        (
            {"system": {**CPU, "board": "AGX Xavier", "power_mode": "MAXN"}, "runner": {"runner": "trtexec"}},
            "AGX Xavier, MAXN, trtexec, fp32, batch 1",
        ),
        ({"system": {"gpu": "unknown"}, "runner": {"runner": "trt"}}, "unknown device, trt, fp32, batch 1"),
        ({"system": {}, "runner": {}}, "unknown device, fp32, batch 1"),
    ],
)
def test_what_may_be_compared(changes: dict[str, Any], expected: str) -> None:
    (point,) = latency_points([record("a", 2, **changes)])
    assert point.conditions == expected


def test_the_latest_of_equal_ones_counts() -> None:
    later = "2026-02-01T00:00:00+00:00"
    points = latency_points([record("a", 2, 70, created=later), record("a", 3, 71), record("a", 4, 72, batch=2)])
    assert [(point.latency_ms, point.top1) for point in points] == [(2, 70), (4, 72)]


def test_networks_of_one_graph_are_points_of_their_own() -> None:
    rows = [
        {"name": "Irep, fused", "top1": 77.9, "top1_source": PAPER, "family": "re-parameterized"},
        {"name": "Plain, BN folded", "top1": 76.1, "top1_source": PAPER, "family": "plain"},
    ]
    points = latency_points([record("Irep, fused", 6, facts={"rows": rows, "top1": None})])
    assert [(point.label, point.top1, point.family) for point in points] == [
        ("Irep, fused", 77.9, "re-parameterized"),
        ("Plain, BN folded", 76.1, "plain"),
    ]
    assert {point.latency_ms for point in points} == {6}
    assert not any(point.measured for point in points)


def test_accuracies_given_beside_the_records() -> None:
    records = [record("a", 2), record("b", 3, 50)]
    points = latency_points(records, {"a": 60.0, "b": 70.0})
    assert [(point.top1, point.source) for point in points] == [
        (60, "given on the command line"),
        (70, "given on the command line"),
    ]
    with pytest.raises(InputError, match=r"no record of c .*there are a, b"):
        latency_points(records, {"c": 1.0})


@pytest.mark.parametrize("top1", [-1, 100.5, "75", True])
def test_what_is_no_accuracy(top1: Any) -> None:
    with pytest.raises(InputError, match="a: expected an accuracy in percent, got"):
        latency_points([record("a", 2, top1)])


def test_groups_and_front() -> None:
    records = [record("slow", 9, 80), record("beaten", 5, 70), record("quick", 3, 71), record("silent", 1)]
    points = latency_points([*records, record("elsewhere", 1, 99, batch=4)])
    groups = by_device(points)
    assert [[point.label for point in group] for group in groups.values()] == [
        ["silent", "quick", "beaten", "slow"],
        ["elsewhere"],
    ]
    assert [point.label for point in pareto_front(next(iter(groups.values())))] == ["quick", "slow"]
    assert pareto_front([]) == []


def test_records_of_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    append(tmp_path / "results" / "records.jsonl", record("a", 2))
    append(tmp_path / "b.jsonl", record("b", 2))
    assert [each.model for each in read_records([tmp_path / "results", tmp_path / "b.jsonl"])] == ["a", "b"]
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="no records in it"):
        read_records([tmp_path / "empty.jsonl"])
    with pytest.raises(InputError, match="no such file of records"):
        read_records([tmp_path])


def test_the_picture(tmp_path: Path) -> None:
    records = [
        record("$slow$", 90, 80, source=PAPER),
        record("größe", 5, 70),
        record("层", 3, 71),
        record("silent", 1),
        record("other", 1, 60, batch=4),
        record("without", 1, precision="fp16"),
    ]
    figure = draw_latency(latency_points(records))
    first, second = figure.axes
    assert names(figure)[1:] == ["größe", "$slow$"] and names(figure, 1) == ["other"]
    front, *rest = first.lines
    assert [tuple(map(float, pair)) for pair in zip(*front.get_data(), strict=True)] == [(3, 71), (90, 80)]
    points = [line for line in rest if line.get_marker() != "None"]
    assert [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in points] == [(3, 71), (5, 70), (90, 80)]
    # Hollow markers for accuracies that are not ours.
    assert [line.get_markerfacecolor() == "white" for line in points] == [False, False, True]
    assert first.get_xscale() == "log" and second.get_xscale() == "linear"
    # Models without an accuracy are named.
    assert first.get_xlabel() == "latency, median (ms)\nno accuracy known: silent (1 ms)"
    assert "not drawn" in figure.get_supxlabel() and "without (1 ms)" in figure.get_supxlabel()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["network", "Pareto front", "hollow: accuracy not measured here"]
    save_figure(figure, tmp_path / "a.svg")


def test_families_have_colours_and_markers() -> None:
    kinds = ("plain", "re-parameterized", "NAS", "mine")
    records = [
        record(kind, 2 + place, 70, facts={"top1": 70 + place, "family": kind}) for place, kind in enumerate(kinds)
    ]
    figure = draw_latency(latency_points(records))
    drawn = [line for line in figure.axes[0].lines[1:] if line.get_marker() != "None"]
    assert len({line.get_color() for line in drawn}) == len({line.get_marker() for line in drawn}) == 4


def test_names_do_not_lie_on_each_other() -> None:
    points = latency_points([record(f"network number {place}", 5 + place / 1000, 70) for place in range(8)])
    figure = draw_latency(points)
    figure.draw_without_rendering()
    # Of the names alone, without the lines that lead to them.
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]
    crossing = [(one, other) for one in range(8) for other in range(one) if boxes[one].overlaps(boxes[other])]
    assert len(boxes) == 8 and crossing == []


def test_names_do_not_lie_on_bars() -> None:
    wide = record("a network", 5, 70, samples_ns=[3_000_000, 5_000_000, 9_000_000])
    figure = draw_latency(latency_points([wide]))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    _, height = axes.transData.transform((5, 70))
    box = Text.get_window_extent(axes.texts[0])
    assert not box.y0 <= height <= box.y1


def test_one_point_and_many_panels(tmp_path: Path) -> None:
    save_figure(draw_latency(latency_points([record("a", 0.01, 0)])), tmp_path / "a.png")
    figure = draw_latency(latency_points([record("a", 2, 50, batch=batch) for batch in range(1, 6)]))
    assert sum(axes.axison for axes in figure.axes) == 5


def test_no_accuracy_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match=r"no record has an accuracy; there are a, b .*--top1"):
        draw_latency(latency_points([record("a", 2), record("b", 2)]))
    with pytest.raises(InputError, match="there are none"):
        draw_latency([])


@pytest.mark.parametrize("sample", [0, 10**400])
def test_samples_that_are_no_measurement(sample: int) -> None:
    with pytest.raises(InputError, match="record of net: a sample of"):
        latency_points([record("net", 1.0, 50.0, samples_ns=[sample] * 8)])
