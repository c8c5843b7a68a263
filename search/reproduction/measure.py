"""Cells without training: scoring a population again, and timing how long scoring takes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from irepdeploy.board.system import system_block
from irepdeploy.console import progress
from irepdeploy.data import Split
from irepdeploy.errors import InputError
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.step import set_step
from irepdeploy.runs.reproduction import RescoredPopulation, TimedPopulation
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic

from ..engine import Search
from ..evaluation.evaluate import PopulationEvaluator
from ..evaluation.fitness import Fitness, Outcome
from ..evaluation.recalibration import recalibrate
from ..suites.rounds import measure_rounds
from ..suites.scoring import Scorers, Sizes
from ..supernet.batches import batches_of
from ..supernet.space import Bits
from ..supernet.subject import Subject
from ..supernet.supernet import Supernet
from .cells import Cell

__all__ = ["BATCHES", "RECALIBRATIONS", "facts_of", "rescored", "timed"]

# Number of splits into halves, of recalibrations, and of batches per recalibration.
_SPLITS, RECALIBRATIONS, BATCHES = 10, 5, 8
# Batch size of the naive loop that Table 1 compares with; the evaluator uses that of the recipe.
_NAIVE_BATCH, _CHUNK = 256, 2

Pairs = tuple[tuple[float, float], ...]


def facts_of(cell: Cell, plan: Recipe) -> dict[str, Any]:
    """Return the fields that every record of a cell contains."""
    return {
        "protocol": cell.protocol.name,
        "version": cell.protocol.version,
        "cell": cell.key,
        "stage": cell.stage,
        "network": cell.network.name,
        "condition": cell.condition.label,
        "arm": cell.arm.name,
        "place": cell.place,
        "seed": cell.seed,
        "recipe": plan.model_dump(mode="json", exclude={"scales"}),
        "created": datetime.now(UTC).isoformat(),
        "system": system_block(),
    }


def rescored(cell: Cell, search: Search, report: Callable[[str], object]) -> RescoredPopulation:
    """Score the last population of a finished search on other images, and with other statistics.

    Args:
        cell: Cell of the record.
        search: The finished search.
        report: Function called with a short text about the progress.
    """
    population = [search.population[index] for index in search.ranking]
    outcomes = _evaluator(search, search.supernet).outcomes(population)
    images, random = len(search.data.val), np.random.default_rng(cell.seed)
    halves = []
    for _ in range(_SPLITS):
        order = random.permutation(images)
        first, second = (_pairs([_part(each, half) for each in outcomes]) for half in np.array_split(order, 2))
        halves.append((first, second))
    recalibrated = []
    for repeat in range(RECALIBRATIONS):
        report(f"new statistics, {repeat + 1} of {RECALIBRATIONS}")
        recalibrated.append(_recalibrated(search, population, repeat))
    return RescoredPopulation(
        **facts_of(cell, search.recipe),
        images=images,
        batches=BATCHES,
        whole=_pairs([each.fitness for each in outcomes]),
        halves=tuple(halves),
        recalibrated=tuple(recalibrated),
    )


def _part(outcome: Outcome, images: np.ndarray[Any, Any]) -> Fitness:
    return Outcome(outcome.statistics[:, images], outcome.task).fitness


def _pairs(fitness: list[Fitness]) -> Pairs:
    return tuple((each.value, each.negative_loss) for each in fitness)


def _recalibrated(search: Search, population: list[Bits], repeat: int) -> Pairs:
    """Score every candidate with its own statistics, all computed from the same few batches."""
    order = torch.Generator().manual_seed(1 + repeat)
    settings = search.settings
    loader = batches_of(search.data, settings.batch_size, order, settings.augment, None, search.ranks.device)
    batches = [images for images, _ in itertools.islice(loader, BATCHES)]
    twin = copy.deepcopy(search.supernet)
    set_step(twin.model, "exact")
    evaluator = _evaluator(search, twin)
    found = []
    for bits in population:
        twin.select(bits)
        recalibrate(twin.model, batches)
        evaluator.refresh()
        found += evaluator.evaluate([bits])
    return _pairs(found)


def _evaluator(search: Search, supernet: Supernet) -> PopulationEvaluator:
    settings = search.settings.evaluation
    return PopulationEvaluator(supernet, search.data.val, settings.batch_size, mode=settings.mode)


def timed(cell: Cell, plan: Recipe, subject: Subject) -> TimedPopulation:
    """Time how long it takes to score a population on the search-validation set, naively and with fused networks.

    The supernet has random weights, since the time does not depend on them.

    Raises:
        InputError: The search-validation set is a stream.
        CheckFailed: The evaluations do not agree.
    """
    if not isinstance(subject.val, Split):
        raise InputError("the naive evaluation needs the search-validation set in memory", where=cell.key)
    supernet = Supernet(subject.net, plan.branches, where=subject.where, task=subject.task)
    randomize_statistics(supernet.model, plan.seed)
    supernet.model.eval()
    evaluation, size = plan.search.evaluation, plan.search.population
    chunk = min(_CHUNK, size)
    sizes = Sizes(evaluation.batch_size, min(_NAIVE_BATCH, len(subject.val)), chunk, 1)
    # The last candidate of an odd population would make half a round.
    rounds = size // chunk
    with exact_arithmetic(), progress(silent=True) as display:
        scorers = Scorers(cell.network.name, supernet, subject.val, sizes, plan.seed)
        calls = scorers.calls(scorers.candidates(rounds * chunk))
        samples = measure_rounds(calls, rounds, display.task("", rounds), seed=plan.seed)
    fuse_ns = samples.pop("fuse")
    return TimedPopulation(
        **facts_of(cell, plan),
        population=rounds * chunk,
        images=len(subject.val),
        samples_ns={name: tuple(each) for name, each in samples.items()},
        fuse_ns=tuple(fuse_ns),
        **vars(sizes),
    )
