"""Handmade records of twelve networks, two devices and two runners."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import support.records
from irepdeploy.bench.report.write import write_report
from irepdeploy.runs.record import Record, append

CPU = {
    "os": "Linux-6.1-x86_64",
    "cpu": {"model": "AMD EPYC", "machine": "x86_64", "logical_cores": 2, "affinity": 2, "governor": "unknown"},
    "memory": {"total_bytes": 25276502016, "available_bytes": 23455981568},
    "load_average": [0.53, 0.72, 0.78],
    "gpu": "none",
    "python": "3.11.7",
    "versions": {"irepdeploy": "0.1.0", "torch": "2.13.0+cpu", "onnxruntime": "1.32.0"},
    "irepdeploy_commit": {"sha": "9ceeb8dc", "dirty": False},
}
GPU = {**CPU, "gpu": [{"name": "NVIDIA H200", "driver_version": "580.1", "power.limit": "700.00 W"}]}
# label, family, parameters, MACs, top-1, the paper's ms, ms on the CPU, ms on the GPU
NETWORKS = [
    ("ResNet-18", "plain", 11_689_512, 1_814_000_000, 69.76, 4.25, 35.8, 1.10),
    ("ResNet-34", "plain", 21_797_672, 3_664_000_000, 73.31, 6.12, 69.8, 1.95),
    ("ResNet-50", "plain", 25_557_032, 4_089_000_000, 76.10, 7.54, 80.8, 2.40),
    ("IrepResNet-18", "re-parameterized", 11_689_512, 1_814_000_000, 71.57, 3.59, 35.9, 0.92),
    ("IrepResNet-50", "re-parameterized", 25_557_032, 4_089_000_000, 77.92, 6.14, 80.9, 1.93),
    ("DARTS (second)", "NAS", 4_718_752, 529_900_000, 73.30, 67.4, 14.4, 11.2),
    ("P-DARTS", "NAS", 4_944_352, 542_800_000, 75.60, 62.3, 14.7, 10.8),
    ("CARS", "NAS", 5_082_784, 566_200_000, 75.20, 59.9, 15.5, 10.1),
]


def a_record(model: str = "net", ms: float = 10.0, *, samples: int = 80, seed: int = 0, **changes: Any) -> Record:
    """Return a record whose samples lie around `ms`, with some outliers far above."""
    rng = np.random.default_rng(seed)
    times = ms * (1 + 0.01 * rng.standard_normal(samples)) * np.where(rng.random(samples) < 0.03, 1.6, 1.0)
    values: dict[str, Any] = {
        "suite": "table3",
        "source": "network, random weights",
        "runner": {"runner": "torch", "provider": "torch cpu", "device": "cpu", "threads": 1, "transfers": "none"},
        "input_shape": [1, 3, 224, 224],
        "samples_ns": [int(value * 1e6) for value in times],
        "warmup": {"runs": 40, "steady": True, "cov": 0.01},
        "protocol_version": 2,
        "system": CPU,
        "conditions": {"seed": 0, "order": "shuffled in every round", "min_samples": 64, "min_seconds": 5.0},
        "argv": ["irepdeploy", "bench", "--suite", "table3", "--out", "r"],
        "created": "2026-11-23T11:26:12.311167+00:00",
    }
    return support.records.make_record(model, **{**values, **changes})


def table3() -> list[Record]:
    """All networks on a CPU with two runners and on a GPU."""
    records = []
    for index, (name, family, params, macs, top1, paper_ms, on_cpu, on_gpu) in enumerate(NETWORKS):
        notes = ["the paper does not say whether TF32 was on"] if family == "plain" else []
        facts = {"net": name.lower(), "family": family, "params": params, "macs": macs, "top1": top1}
        facts |= {"top1_source": "paper, not measured", "paper_ms": paper_ms, "notes": notes, "names": [name]}
        warmup = {"runs": 40, "steady": name != "P-DARTS", "cov": 0.03}
        for runner, factor in (("torch", 1.4), ("ort-cpu", 1.0)):
            ran = {"runner": runner, "provider": runner, "device": "cpu", "threads": 1, "transfers": "none"}
            records.append(a_record(name, on_cpu * factor, seed=index, runner=ran, facts=facts, warmup=warmup))
        ran = {"runner": "torch", "provider": "torch cuda", "device": "cuda:0", "threads": 1, "transfers": "none"}
        created = "2026-11-24T09:00:00+00:00"
        records.append(
            a_record(name, on_gpu, samples=700, seed=index, runner=ran, facts=facts, system=GPU, created=created)
        )
    return records


def table2() -> list[Record]:
    """Two graphs, one of which has three names."""
    names = [("VGG, BN folded", "plain", 94.12, None), ("RepVGG, fused", "re-parameterized", 94.62, 1.76)]
    names.append(("IrepVGG-16, fused", "re-parameterized", 95.65, 1.76))
    source = {"top1_source": "paper, not measured", "notes": []}
    rows = [{"name": a, "family": b, "top1": c, "paper_ms": d, **source} for a, b, c, d in names]
    facts = {"net": "vgg16", "params": 14_728_266, "macs": 313_000_000, "names": [a for a, *_ in names], "rows": rows}
    darts = {"name": "DARTS, BN folded", "family": "NAS", "top1": 97.24, "paper_ms": 31.0, **source}
    other = {"net": "darts_cifar", "params": 3_349_342, "macs": 528_400_000, "names": [darts["name"]], "rows": [darts]}
    shape = {"suite": "table2", "input_shape": [1, 3, 32, 32]}
    return [a_record(names[0][0], 9.7, facts=facts, **shape), a_record("DARTS", 18.2, seed=1, facts=other, **shape)]


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    """`make_record(model, ms, samples=..., seed=..., field=value, ...)`."""
    return a_record


@pytest.fixture(scope="session")
def write_records(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`write_records(records, folder=None)`: a folder, by default a new one, whose records.jsonl they are added to."""

    def write(records: list[Record], folder: Path | None = None) -> Path:
        path = folder or tmp_path_factory.mktemp("records")
        path.mkdir(parents=True, exist_ok=True)
        for record in records:
            append(path / "records.jsonl", record)
        return path

    return write


@pytest.fixture(scope="session")
def page(write_records: Callable[..., Path]) -> Path:
    """The page of both tables: thirteen networks, two devices and two runners."""
    return write_report([write_records([*table3(), *table2()])]).files[0]


@pytest.fixture(scope="session")
def records_of_table2() -> list[Record]:
    """Two graphs, four rows."""
    return table2()


@pytest.fixture(scope="session")
def records_of_table3() -> list[Record]:
    """`NETWORKS`, on two devices and two runners."""
    return table3()
