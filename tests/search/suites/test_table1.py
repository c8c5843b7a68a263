from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from irepdeploy.console import progress
from irepdeploy.data import Split
from irepdeploy.errors import CheckFailed, InputError, MissingError
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.comparator import relative_error
from irepdeploy.runs.suite import SuiteReport, SuiteRequest
from irepdeploy.search.evaluation.evaluate import PopulationEvaluator
from irepdeploy.search.evaluation.kernels import PlainNetwork
from irepdeploy.search.suites import table1 as module
from irepdeploy.search.suites.naive import NaiveEvaluator
from irepdeploy.search.suites.table1 import table1
from irepdeploy.search.supernet.builders import build_supernet
from support.tiny import Tiny


def run(request: SuiteRequest) -> SuiteReport:
    with progress() as display:
        return table1(request, display)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller network than that of scale smoke, and fewer images."""
    scale = replace(module._OF_SCALE["smoke"], images=16, naive_batch=8, batch=4)
    monkeypatch.setitem(module._OF_SCALE, "smoke", scale)
    monkeypatch.setattr(module, "build_plain", partial(build_plain, stages=((4, 4), (6,))))


def test_a_refusal_by_itself_is_one_line_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main(["--scale", "smoke", "--only", "vgg99"]) == 2
    assert capsys.readouterr().err.startswith("error: --only: unknown network 'vgg99' in table1")


@pytest.mark.usefixtures("small")
def test_the_report_has_a_row_for_each_evaluation_and_restores_settings(tmp_path: Path) -> None:
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_num_threads(threads + 1)
    try:
        # Keep the number of threads: two threads wait for each other on a busy machine.
        report = run(SuiteRequest(scale="smoke", threads=threads, out=tmp_path))
        assert (torch.get_num_threads(), torch.backends.cudnn.benchmark) == (threads + 1, benchmark)
    finally:
        torch.set_num_threads(threads)
    names = [
        "naive",
        "naive, batches of 4",
        "fused",
        *(["fused-bf16"] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else []),
    ]
    assert [row[:2] for row in report.rows] == [["vgg6", name] for name in names]
    assert all(len(row) == len(report.columns) for row in report.rows)
    (line,) = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    fuse = sorted(line["fuse_ns"])[2] / 12
    seconds = [time / 2 + fuse for time in line["samples_ns"]["fused"]]
    found = report.figures["vgg6 12 fused"]
    assert found["seconds_per_candidate"] == pytest.approx(sum(seconds) / 6 / 1e9)
    naive, own = sorted(line["samples_ns"]["naive"])[2], sorted(seconds)[2]
    assert found["ratio"]["value"] == pytest.approx(naive / own, rel=1e-6)
    assert found["ratio"]["low"] <= found["ratio"]["value"] <= found["ratio"]["high"]
    other = sorted(line["samples_ns"]["naive, batches of 4"])[2]
    assert report.figures["vgg6 12 naive, batches of 4"]["ratio"]["value"] == pytest.approx(naive / other, rel=1e-6)
    assert report.rows[2][2] == f"{found['seconds_per_candidate'] / 16 * 1000:.3f}"


def test_the_scale_of_the_paper_on_a_pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With faked times: one population of 64 fits, none of 128."""
    times = {64: (1e9, 0.4e9, 0.1e9)}

    def populations(subjects: Any, scale: Any, *_: Any) -> Any:
        for subject in subjects:
            for size, (naive, fused, narrow) in times.items():
                rounds = {
                    name: [int(each)] * (size // 16)
                    for name, each in zip(("naive", "fused", "fused-bf16"), (naive, fused, narrow), strict=True)
                }
                yield module._Timed(subject.net, size, 16, rounds, [64_000_000] * 4)

    class Subject:
        def __init__(self, net: Any, *_: Any) -> None:
            self.net, self.error, self.naive_chunk = net, 1e-7, 16
            self.evaluators = {"fused": type("Evaluator", (), {"how": "cuda graph"}), "fused-bf16": None}

    monkeypatch.setattr(module, "_all_populations", populations)
    monkeypatch.setattr(module, "_Subject", Subject)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    report = run(SuiteRequest(scale="paper", device="cuda", only=["vgg16"]))
    # 1 s and 0.4 s a round of 16, four rounds; 1 ms of the fuse a candidate.
    assert [list(row) for row in report.rows] == [
        ["vgg16", "64", "naive", "4.00", "1", "-", "1349.4", "-", "1"],
        ["vgg16", "64", "fused", "1.66", "2.40", "-", "499.5", "2.70", "1"],
        ["vgg16", "64", "fused-bf16", "0.46", "8.62", "-", "-", "-", "1"],
    ]
    assert "a GPU" in report.title


def test_a_population_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    net = module._VGG6
    scale = module._Scale((net,), 8, 8, 8, (4, 8, 16), 2, 4, 4, seconds=100)
    # When the deadline is set, then before each population.
    clock = iter([0.0, 1.0, 41.0, 42.0, 61.0, 61.0, 61.0])

    class Subject:
        def __init__(self) -> None:
            self.net, self.naive_chunk, self.seconds_of_round = net, 4, 40.0

        def candidates(self, count: int) -> list[Any]:
            return [None] * count

        def calls(self, population: list[Any]) -> dict[str, Callable[[], None]]:
            return {"naive": lambda: None, "fused": lambda: None, "fuse": lambda: None}

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress() as display:
        timed = list(module._all_populations([Subject()], scale, SuiteRequest(), display))  # type: ignore[list-item]
    # A round takes 40 s of the 100: two of them do not fit behind the first, nor one when 61 s have passed.
    assert [each.size for each in timed] == [4]
    assert len(timed[0].rounds["fused"]) == 1


@pytest.mark.usefixtures("small")
def test_where_a_population_takes_too_long_one_of_each_chunk_is_scored_naively() -> None:
    chunks = []
    for seconds in (1e-3, 1e6):
        scale = module._Scale((module._VGG6,), 8, 8, 8, (8,), 1, 4, 4, seconds=seconds)
        subject = module._Subject(module._VGG6, scale, SuiteRequest())
        assert subject.seconds_of_round == subject.cost[0] * subject.naive_chunk + subject.cost[1] * 4
        assert min(subject.cost) > 0
        chunks.append(subject.naive_chunk)
    assert chunks == [1, 4]


@pytest.mark.usefixtures("small")
def test_logits_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainNetwork, "write", lambda plain, mask: None)
    with pytest.raises(CheckFailed, match="vgg6: fused logits are off by"):
        run(SuiteRequest(scale="smoke"))


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match="days on a CPU"):
        run(SuiteRequest(scale="paper"))
    if not torch.cuda.is_available():
        with pytest.raises(MissingError, match="no CUDA device"):
            run(SuiteRequest(device="cuda"))


def test_the_naive_evaluation_is_eq_6(tiny: Tiny) -> None:
    supernet = build_supernet(tiny())
    randomize_statistics(supernet.model, seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in supernet.arch_parameters():
            parameter.normal_()
    supernet.model.eval()
    data = Split(torch.randn(12, 1, 16, 16), torch.arange(12) % 10)
    naive = NaiveEvaluator(supernet.model, supernet.space, data, batch_size=5)
    convs = [part for part in naive.network.modules() if isinstance(part, nn.Conv2d)]
    assert all(conv.weight.is_contiguous() for conv in convs)
    random = np.random.default_rng(0)
    size = supernet.space.size
    population = [np.zeros(size, dtype=bool), *(random.random(size) < 0.6 for _ in range(3))]
    evaluator = PopulationEvaluator(supernet, data)
    for bits in population:
        naive.select(bits)
        with torch.inference_mode():
            expected = naive.network(data.images[:]).numpy()
            assert relative_error(expected, evaluator.network(bits)(data.images[:]).numpy()) < 1e-4
    for one, other in zip(naive.evaluate(population), evaluator.evaluate(population), strict=True):
        assert one.value == other.value
        assert one.negative_loss == pytest.approx(other.negative_loss, rel=1e-5)


@pytest.mark.usefixtures("small")
def test_what_was_scored_before_the_run_was_ended_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def populations(subjects: Any, scale: Any, *_: Any) -> Any:
        # The most that all populations may take.
        assert scale.seconds == 7
        yield module._Timed(subjects[0].net, 12, 1, {"naive": [1], "fused": [1]}, [1])
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_all_populations", populations)
    with pytest.raises(KeyboardInterrupt):
        run(SuiteRequest(scale="smoke", seconds=7, out=tmp_path))
    assert json.loads((tmp_path / "records.jsonl").read_text())["samples_ns"] == {"naive": [1], "fused": [1]}
