"""Pareto set of a population: accuracy against training time and training memory."""

from __future__ import annotations

from collections.abc import Sequence

from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.pareto import Candidate, ParetoSet
from irepdeploy.runs.schema import MetricFacts

from .evaluation.candidate_cost import CandidateCosts
from .evaluation.fitness import Fitness
from .supernet.supernet import Supernet

__all__ = ["pareto_set"]


def pareto_set(
    supernet: Supernet,
    population: Sequence[Architecture],
    fitness: Sequence[Fitness],
    *,
    input_shape: tuple[int, ...],
    batch_size: int,
    metric: MetricFacts | None = None,
    costs: CandidateCosts | None = None,
) -> ParetoSet:
    """Count the training cost of each candidate, best fitness first, and mark those that are Pareto-optimal."""
    costs = costs or CandidateCosts(supernet.model, supernet.space, input_shape)
    counted = [costs.of(supernet.space.bits(architecture)) for architecture in population]
    aims = [(one.value, -cost.macs, -cost.memory_bytes(batch_size)) for one, cost in zip(fitness, counted, strict=True)]
    return ParetoSet(
        batch_size=batch_size,
        metric=metric,
        candidates=tuple(
            Candidate(
                rank=rank,
                digest=architecture.digest,
                branches=architecture.count,
                val_accuracy=fitness[rank].value,
                params=cost.params,
                macs=cost.macs,
                activation_bytes=cost.activation_bytes,
                memory_bytes=cost.memory_bytes(batch_size),
                pareto=not any(_beats(other, aims[rank]) for other in aims),
            )
            for rank, (architecture, cost) in enumerate(zip(population, counted, strict=True))
        ),
    )


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine >= its for mine, its in zip(one, other, strict=True))
