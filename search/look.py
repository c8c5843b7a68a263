"""Inspect a network and its data before a search: find a batch that fits, and estimate time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from irepdeploy.data import Split
from irepdeploy.errors import InputError, RecipeError
from irepdeploy.limits import memory_bytes
from irepdeploy.recipe import AugmentSection, Recipe
from irepdeploy.reparam.insert import expandable, matches
from irepdeploy.tasks import Classification

from .evaluation.candidate_cost import CandidateCosts
from .evaluation.evaluate import PopulationEvaluator
from .evaluation.preflight import preflight
from .execution.device import device_name
from .execution.loop import adam, optimizer_of
from .strategies.uniform import Uniform
from .supernet.batches import batches_of
from .supernet.space import Bits
from .supernet.subject import Subject, subject_of
from .supernet.supernet import Supernet

__all__ = ["Look", "look"]

# Use at most 1/_SHARE of the device's memory, since other processes use it too.
_SHARE = 2
# Smaller data sets get a smaller batch, so that an epoch has at least this many steps.
_STEPS_PER_EPOCH = 8
_LEAST_BATCH = 2
_MOST_STEPS, _ENOUGH_SECONDS = 5, 3.0


@dataclass(frozen=True)
class Look:
    """Findings about a network and its data. Seconds are medians over a few steps, after one warm-up step.

    Attributes:
        input_shape: (C, H, W) of a sample.
        classes: Number of outputs of the network; None for tasks other than classification.
        data_classes: Number of classes of the data, by their names or else their labels; None if unknown.
        samples: Number of training, search-validation and test samples; 0 if unknown, None without a test set.
        note: How the test set was chosen, if the data has none of its own; else "".
        layers: Number of convolutions that get branches.
        plain: Reasons why other convolutions, among those that `net.where` selects, get none, by name.
        possible: Number of branches that are possible in these layers.
        kept: Number of branches that a candidate may keep.
        batch_size: Batch size that fits, halved from that of the recipe as often as needed.
        population: Population size, limited by the number of distinct candidates.
        memory_bytes: Counted memory of a training step with every branch; None if it could not be counted.
        limit_bytes: Memory that a training step may use.
        search_step: Seconds per step with the subnets of the recipe.
        warmup_step: Seconds per step with every branch.
        score: Seconds to score one candidate.
        measured: Number of steps with subnets that were measured.
        device: Name of the device.
        threads: Number of CPU threads.
    """

    input_shape: tuple[int, ...]
    classes: int | None
    data_classes: int | None
    samples: tuple[int, int, int | None]
    note: str
    layers: int
    plain: dict[str, str]
    possible: int
    kept: int
    batch_size: int
    population: int
    memory_bytes: int | None
    limit_bytes: int
    search_step: float
    warmup_step: float
    score: float
    measured: int
    device: str
    threads: int

    def search_seconds(self, recipe: Recipe) -> float:
        """Return the estimated seconds of a search with this recipe, from the measured speed."""
        settings, steps = recipe.search, self.steps
        warm = settings.warmup_epochs * steps * self.warmup_step
        epochs = settings.evolutions * settings.epochs_per_evolution
        return warm + epochs * steps * self.search_step + settings.evolutions * self.population * self.score

    def training_seconds(self, recipe: Recipe) -> float:
        """Return the estimated seconds of a training with every branch, which is an upper bound."""
        return recipe.train.epochs * self.steps * self.warmup_step

    @property
    def steps(self) -> int:
        """Number of steps per epoch."""
        return max(1, self.samples[0] // self.batch_size)


def look(recipe: Recipe, device: torch.device) -> Look:
    """Build the recipe's network, read its data, and measure a few steps; nothing is written.

    Raises:
        InputError: Network, data and task do not fit together, or no batch fits into memory.
    """
    subject = subject_of(recipe, device)
    reasons = expandable(subject.net, recipe.branches)
    plain = {name: why for name, why in reasons.items() if why and matches(subject.net, subject.where, name)}
    supernet = Supernet(subject.net, recipe.branches, where=subject.where, task=subject.task)
    supernet.model.to(device)
    preflight(supernet.model, subject, _LEAST_BATCH, device)
    space, settings = supernet.space, recipe.search
    if not space.positions:
        raise InputError("no branch is possible at any of the convolutions", where=recipe.net.label)
    budget = space.budget(settings.budget)
    population = min(settings.population, budget.candidates)
    memory, limit, batch_size = _fitting(supernet, subject, settings.batch_size, device)
    strategy = Uniform(space, settings.model_copy(update={"population": population}))
    candidates = strategy.first(np.random.default_rng(recipe.seed))
    images, targets = _batch(subject, recipe, batch_size, device)
    weights, arch = optimizer_of(supernet.weights(), settings.weights), adam(supernet.arch_parameters(), settings.arch)

    def step(subnets: list[Bits | None]) -> Callable[[], None]:
        def run() -> None:
            supernet.accumulate(images, targets, subnets, amp=settings.amp)
            weights.step()
            arch.step()

        return run

    few: list[Bits | None] = [candidates[index % population] for index in range(settings.subnets_per_step)]
    search_step, measured = _timed(step(few), device)
    warmup_step, _ = _timed(step([None]), device)
    evaluator = PopulationEvaluator(supernet, subject.val, settings.evaluation.batch_size)
    evaluator.refresh()
    score, _ = _timed(lambda: _score(evaluator, candidates[0]), device)
    test = subject.load_test()
    train, val = len(subject.train), len(subject.val)
    return Look(
        input_shape=subject.input_shape,
        classes=_classes(supernet, subject) if isinstance(subject.task, Classification) else None,
        data_classes=_data_classes(subject) if isinstance(subject.task, Classification) else None,
        samples=(train, val, None if test is None else len(test)),
        note=subject.note,
        layers=len(space.layers),
        plain=plain,
        possible=len(space.positions),
        kept=budget.total,
        batch_size=batch_size,
        population=population,
        memory_bytes=memory,
        limit_bytes=limit,
        search_step=search_step,
        warmup_step=warmup_step,
        score=score,
        measured=measured,
        device=device_name(device),
        threads=torch.get_num_threads(),
    )


def _fitting(supernet: Supernet, subject: Any, wanted: int, device: torch.device) -> tuple[int | None, int, int]:
    """Return the counted memory of a step, its limit, and the batch size that fits, halved from `wanted`."""
    limit = (torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_bytes()) // _SHARE
    size = wanted
    while size > _LEAST_BATCH and len(subject.train) and size * _STEPS_PER_EPOCH > len(subject.train):
        size //= 2
    try:
        cost = CandidateCosts(supernet.model, supernet.space, subject.input_shape).of(
            np.ones(len(supernet.space.positions), dtype=bool)
        )
    except Exception:  # a network whose cost cannot be counted can still be measured
        return None, limit, size
    while size > _LEAST_BATCH and cost.memory_bytes(size) > limit:
        size //= 2
    if cost.memory_bytes(size) > limit:
        raise InputError(
            f"a step of {size} images takes {cost.memory_bytes(size) / 1e9:.1f} GB, more than {limit / 1e9:.1f} GB",
            where=str(device),
            hint="reduce the image size (data.options.size) or the number of layers (net.where)",
        )
    return cost.memory_bytes(size), limit, size


def _batch(subject: Any, recipe: Recipe, batch_size: int, device: torch.device) -> tuple[torch.Tensor, Any]:
    order = torch.Generator().manual_seed(recipe.seed)
    for images, targets in batches_of(subject, batch_size, order, AugmentSection(), None, device):
        return images, targets
    raise RecipeError("no batch to train on", where="data")


def _timed(run: Callable[[], None], device: torch.device) -> tuple[float, int]:
    """Return the median seconds of a few calls after a warm-up call, and the number of calls."""
    run()
    seconds: list[float] = []
    while len(seconds) < _MOST_STEPS and sum(seconds) < _ENOUGH_SECONDS:
        started = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), len(seconds)


def _score(evaluator: PopulationEvaluator, candidate: Bits) -> None:
    evaluator.refresh()
    evaluator.outcomes([candidate])


@torch.no_grad()
def _classes(supernet: Supernet, subject: Any) -> int:
    """Return the number of outputs of the network."""
    data = subject.val
    images = data.images[:1] if isinstance(data, Split) else next(data.in_order(1))[0]
    weight = next(supernet.model.parameters())
    outputs = subject.task.outputs(supernet.model.eval()(images.to(weight.device, weight.dtype)))
    return int(outputs.shape[1])


def _data_classes(subject: Subject) -> int | None:
    labels = subject.train.labels if isinstance(subject.train, Split) else None
    if subject.classes is not None or labels is None or labels.is_floating_point():
        return subject.classes
    return int(labels.max()) + 1
