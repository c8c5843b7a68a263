"""Benchmark `ird.search` with a user's network, and a custom search loop, against the same search by a recipe.

Run ``python -m irepdeploy.bench.tools.given_network [FILE.jsonl]``, which takes two minutes on one thread. The network
(vgg6), the data (digits in memory) and the settings are the same. The times cover everything from building the network
to the last population.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from irepdeploy.board.protocol import PROTOCOL_VERSION, ratio, summary
from irepdeploy.console import table
from irepdeploy.recipe import Recipe, load_recipe
from irepdeploy.search.engine import Search
from irepdeploy.search.execution.loop import adam, clip, cosine, optimizer_of, set_rate
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.functions import search
from irepdeploy.search.own_loop import Supernet
from irepdeploy.search.supernet.builders import build_net, load_data

from .harness import interval_text, keep_line, samples_of

__all__ = ["measure_paths"]

_ROUNDS = 8
_OVERRIDES = ("scale=smoke", "search.epochs_per_evolution=3", "data.options.train=150", "threads=1", "device=cpu")


def measure_paths(recipe: Recipe, rounds: int = _ROUNDS) -> dict[str, list[int]]:
    """Return the times in ns of the three ways to run the search of a recipe, from interleaved rounds."""
    data = load_data(recipe)
    train, val = ((part.images[:], part.labels) for part in (data.train, data.val))
    settings = recipe.search.model_dump()

    def by_recipe() -> None:
        with tempfile.TemporaryDirectory() as folder:
            Search(recipe, Path(folder)).run()

    def by_function() -> None:
        with tempfile.TemporaryDirectory() as folder:
            search(build_net(recipe, data), train=train, val=val, out=folder, threads=1, device="cpu", **settings)

    def by_loop() -> None:
        _loop(recipe, Supernet(build_net(recipe, data), **settings), train, val)

    return samples_of({"recipe": by_recipe, "ird.search": by_function, "ird.Supernet": by_loop}, rounds)


def _loop(recipe: Recipe, supernet: Supernet, train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor]) -> None:
    settings = recipe.search
    images, labels = train
    weights, arch = optimizer_of(supernet.weights(), settings.weights), adam(supernet.arch_parameters(), settings.arch)
    population = supernet.first()
    epochs = settings.warmup_epochs + settings.evolutions * settings.epochs_per_evolution
    for epoch in range(epochs):
        warm = epoch < settings.warmup_epochs
        set_rate(weights, cosine(settings.weights.lr, epoch, epochs))
        for chosen in torch.randperm(len(images)).split(settings.batch_size):
            subnets = [None] if warm else supernet.draw(population)
            supernet.accumulate(images[chosen], labels[chosen], subnets)
            clip(weights, settings.weights.clip)
            weights.step()
            if not warm:
                arch.step()
        if not warm and (epoch + 1 - settings.warmup_epochs) % settings.epochs_per_evolution == 0:
            population = supernet.next(population, supernet.score(population, val))


def main(record: str | None = None) -> None:
    """Measure, print a table, and append the raw samples to `record`."""
    torch.set_num_threads(1)
    samples = measure_paths(load_recipe(recipe_path("digits"), _OVERRIDES))
    rows = []
    for name, times in samples.items():
        found = ratio(times, samples["recipe"], seed=0)
        rows.append([name, f"{summary(times).median_ms:.0f}", f"{found.value:.3f}", interval_text(found)])
    table("A search of vgg6 on digits", ["way", "median ms", "x recipe", "95 % interval"], rows)
    keep_line(record, "given network", protocol_version=PROTOCOL_VERSION, samples_ns=samples)


if __name__ == "__main__":
    main(*sys.argv[1:2])
