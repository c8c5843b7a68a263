"""Sentences follow the figures: they change if the same models have other times."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from irepdeploy.bench.report.claims import claims_of, order_claim
from irepdeploy.bench.report.devices import comparisons_of
from irepdeploy.bench.report.tables import Table, tables_of
from irepdeploy.runs.record import Record

Make = Callable[..., Record]


def table(make_record: Make, times: dict[str, float], **facts: dict[str, object]) -> Table:
    records = [make_record(name, ms, seed=i, facts=facts.get(name, {})) for i, (name, ms) in enumerate(times.items())]
    return tables_of(records)[0]


def test_which_family_is_faster_is_this_devices_own(records_of_table3: list[Record]) -> None:
    on_cpu, _, on_gpu = tables_of(records_of_table3)
    assert on_cpu.device.startswith("AMD") and on_gpu.device == "NVIDIA H200"
    cpu = next(claim for claim in claims_of(on_cpu) if claim.startswith("Fastest of each family"))
    gpu = next(claim for claim in claims_of(on_gpu) if claim.startswith("Fastest of each family"))
    assert cpu.index("(NAS)") < cpu.index("(plain)") and "DARTS (second) (NAS), 20.1 ms" in cpu
    assert gpu.index("(plain)") < gpu.index("(NAS)") and "CARS (NAS), 10.1 ms" in gpu


def test_the_fastest_are_told_by_their_own_ratio_not_by_that_to_the_reference(make_record: Make) -> None:
    shared = np.random.default_rng(1).normal(10.0, 1.0, 80)
    # Round by round b takes 2 % longer than a, while both drift against the reference.
    times = {"a": shared, "b": 1.02 * shared, "c": np.roll(shared, 7)}
    records = [make_record("reference", 20.0)]
    records += [make_record(name, samples_ns=[int(1e6 * ms) for ms in found]) for name, found in times.items()]
    (found,) = tables_of(records)
    _, a, b, _ = found.rows
    assert b.span[0] < a.span[1]
    assert [row.model for row in found.fastest] == ["a", "c"]


def test_fastest_and_slowest_with_their_ratio(make_record: Make) -> None:
    claims = claims_of(table(make_record, {"a": 10.0, "b": 5.0, "c": 20.0}))
    assert claims[0].startswith("Fastest by median: b, 5.0")
    assert "Slowest: c, 20.0 ms, 4.0" in claims[0] and "[" in claims[0]


def test_what_cannot_be_told_from_the_reference_is_reported(make_record: Make) -> None:
    alike = claims_of(table(make_record, {"a": 10.0, "b": 10.0, "c": 20.0}))
    assert "A tie with a (the interval contains 1): b." in alike
    assert any(claim.startswith("Fastest by median: ") and "ms, a tie with " in claim for claim in alike)
    all_alike = claims_of(table(make_record, {"a": 10.0, "b": 10.0}))
    assert all_alike[0].startswith("All tie: no model is faster than another")
    for ms in (9.0, 11.0):
        assert not any("told apart" in claim for claim in claims_of(table(make_record, {"a": 10.0, "b": ms})))


def test_the_papers_order_is_counted_and_not_assumed(make_record: Make) -> None:
    facts = {name: {"paper_ms": ms} for name, ms in {"a": 1.0, "b": 2.0, "c": 3.0}.items()}
    same = claims_of(table(make_record, {"a": 10.0, "b": 20.0, "c": 30.0}, **facts))[-1]
    assert same.startswith("Of 3 pairs of models, 3 are in the same order here as in the paper, 0 in the opposite")
    other = claims_of(table(make_record, {"a": 30.0, "b": 20.0, "c": 25.0}, **facts))[-1]
    assert "1 are in the same order here as in the paper, 2 in the opposite" in other
    assert not any("paper" in claim for claim in claims_of(table(make_record, {"a": 1.0, "b": 2.0}, a=facts["a"])))


def test_ties_are_neither() -> None:
    exact = [tuple((value, value) for value in pair) for pair in ((1, 5), (1, 6), (2, 5))]
    assert order_claim(exact, "here", "there").startswith(  # type: ignore[arg-type]
        "Of 3 pairs of models, 0 are in the same order here as there, 1 in the opposite one, 2 tied in one of them"
    )
    assert order_claim([((1, 1), (1, 1)), ((1, 1), (1, 1))], "here", "there") == ""
    # Overlapping intervals are a tie, whatever their centres.
    assert order_claim([((1, 2), (5, 5)), ((1.9, 3), (6, 6))], "here", "there") == ""
    assert "1 are in the same order" in order_claim([((1, 1.8), (5, 5)), ((1.9, 3), (6, 6))], "here", "there")


def test_one_model_or_a_sweep_says_nothing(make_record: Make) -> None:
    assert claims_of(table(make_record, {"a": 10.0})) == []
    sweep = [make_record(name, 5.0, scenario="offline") for name in "ab"]
    assert claims_of(tables_of(sweep)[0]) == []


def test_devices_are_compared_model_by_model(records_of_table3: list[Record]) -> None:
    (comparison,) = comparisons_of(tables_of(records_of_table3))
    assert not any("a tie" in cell for row in comparison.cells() for cell in row)
    assert comparison.columns == ("AMD EPYC, 2 cores, 24 GiB", "NVIDIA H200")
    medians = {model: found for model, found, _ in comparison.rows}
    assert len(medians) == 8
    on_cpu, on_gpu = medians["ResNet-18"]
    assert on_cpu is not None and on_gpu is not None
    assert (round(on_cpu, 1), round(on_gpu, 2)) == (50.2, 1.1)
    ratios = {model: found[1] for model, _, found in comparison.rows}
    assert ratios["ResNet-18"] is not None and ratios["ResNet-18"].value == pytest.approx(on_gpu / on_cpu)
    # On the CPU the searched networks are faster, on the GPU the plain ones.
    assert comparison.claims == (
        "Of 28 pairs of models, 7 are in the same order on AMD EPYC, 2 cores, 24 GiB as on NVIDIA H200, "
        "19 in the opposite one, 2 tied in one of them (by the intervals of the ratios).",
    )


def test_only_what_two_devices_share_is_compared(make_record: Make) -> None:
    other = {"system": {"board": "Nano"}}
    records = [make_record("a"), make_record("b"), make_record("a", **other), make_record("c", **other)]
    (comparison,) = comparisons_of(tables_of(records))
    assert [model for model, _, _ in comparison.rows] == ["a"]
    assert comparison.claims == ()
    assert comparisons_of(tables_of([make_record("a"), make_record("c", **other)])) == []
    # Nor across protocol versions, precisions or inputs.
    for change in ({"protocol_version": 1}, {"precision": "fp16"}, {"input_shape": [1, 3, 32, 32]}):
        assert comparisons_of(tables_of([make_record("a"), make_record("a", **other, **change)])) == []


def test_two_runs_on_one_device_are_no_difference_between_devices(make_record: Make) -> None:
    assert comparisons_of(tables_of([make_record("a", created="1"), make_record("a", created="2")])) == []
