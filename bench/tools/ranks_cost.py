"""Benchmark a search on one process and on two: elapsed seconds, CPU seconds and bytes exchanged.

Run ``python -m irepdeploy.bench.tools.ranks_cost [FILE.jsonl]``, which takes a few minutes. Both processes share the
cores of this machine, so elapsed time says little on few cores; CPU time shows the overhead of dividing the work.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from irepdeploy.board.protocol import PROTOCOL_VERSION
from irepdeploy.console import table
from irepdeploy.recipe import load_recipe
from irepdeploy.search.engine import Search
from irepdeploy.search.execution.ranks import Ranks
from irepdeploy.search.execution.shipped import recipe_path

from .harness import keep_line

__all__ = ["measure_ranks", "measure_sizes"]

_ROUNDS = 4
_SIZES = (1, 2)
_OVERRIDES = ("data.options.train=128", "search.batch_size=64", "threads=1", "device=cpu")

# By phase: elapsed ns, CPU ns and bytes sent by each rank.
Costs = dict[str, dict[str, Any]]


def measure_ranks(population: int, subnets: int) -> Costs:
    """Run each phase of a search once on the ranks given by the environment, after one step that is not measured."""
    plan = (*_OVERRIDES, f"search.population={population}", f"search.subnets_per_step={subnets}")
    with Ranks.from_environment() as ranks, tempfile.TemporaryDirectory() as folder:
        sent = _count_sent(ranks)
        search = Search(load_recipe(recipe_path("digits"), plan), Path(folder) / str(ranks.rank), ranks=ranks)
        phases: dict[str, Callable[[], object]] = {
            "warm-up epoch": lambda: search._train_epoch(True, _quiet),
            "epoch of subnets": lambda: search._train_epoch(False, _quiet),
            "population scored": search._rank,
        }
        search._train_epoch(False, _quiet)
        found: Costs = {}
        for name, run in phases.items():
            ranks.barrier()
            sent[0], began, used = 0, time.perf_counter_ns(), time.process_time_ns()
            run()
            used = time.process_time_ns() - used
            mine, bytes_sent = time.perf_counter_ns() - began, sent[0]
            every = ranks.gather([(used, bytes_sent)], ranks.size)
            found[name] = {
                "wall_ns": mine, "cpu_ns": [each[0] for each in every], "sent_bytes": [each[1] for each in every]
            }  # fmt: skip
        return found


def _quiet(note: str) -> None:
    """Report nothing."""


def _count_sent(ranks: Ranks) -> list[int]:
    sent, exchange = [0], ranks._exchange

    def counting(mine: Tensor, sizes: Any) -> list[Tensor]:
        sent[0] += mine.numel() * mine.element_size() * (ranks.size - 1)
        return exchange(mine, sizes)

    ranks._exchange = counting  # type: ignore[method-assign]
    return sent


def measure_sizes(rounds: int = _ROUNDS, population: int = 12, subnets: int = 4) -> dict[str, list[Costs]]:
    """Return the costs of each round by number of processes; the sizes alternate, each in fresh processes."""
    found: dict[str, list[Costs]] = {str(size): [] for size in _SIZES}
    for _ in range(rounds):
        for size in _SIZES:
            found[str(size)].append(_started(size, population, subnets))
    return found


def _started(size: int, population: int, subnets: int) -> Costs:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked, so that torch is imported once.
    with ProcessPoolExecutor(size, mp_context=get_context("fork")) as pool:
        ranks = [pool.submit(_rank, rank, size, port, population, subnets) for rank in range(size)]
        costs = [rank.result() for rank in ranks]
    return costs[0]


def _rank(rank: int, size: int, port: int, population: int, subnets: int) -> Costs:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_PORT=str(port), MASTER_ADDR="127.0.0.1")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    return measure_ranks(population, subnets)


def rows(found: Mapping[str, list[Costs]]) -> list[list[object]]:
    """Return a row per phase and number of processes, with medians over rounds."""
    cells: list[list[object]] = []
    for phase in found["1"][0]:
        base = statistics.median(sum(each[phase]["cpu_ns"]) for each in found["1"])
        for size, rounds in found.items():
            every = statistics.median(sum(each[phase]["cpu_ns"]) for each in rounds)
            most = statistics.median(max(each[phase]["cpu_ns"]) for each in rounds)
            wall = statistics.median(each[phase]["wall_ns"] for each in rounds)
            sent = max(rounds[0][phase]["sent_bytes"]) / 1e6
            cells.append([phase, size, f"{every / base:.2f}", f"{most / base:.2f}", f"{sent:.1f}", f"{wall / 1e9:.2f}"])
    return cells


def main(record: str | None = None) -> None:
    """Measure, print a table, and append the raw samples to `record`."""
    torch.set_num_threads(1)
    found = measure_sizes()
    heads = ["phase", "processes", "processor time, all", "busiest", "MB sent by each", "seconds"]
    table("A search of vgg6 on digits; processor time as a multiple of one process", heads, rows(found))
    keep_line(record, "ranks", protocol_version=PROTOCOL_VERSION, costs=found)


if __name__ == "__main__":
    main(*sys.argv[1:2])
