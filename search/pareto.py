"""The Pareto set of a population: accuracy against what training a candidate takes, in time and in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from irepdeploy.reparam.architecture import Architecture

from .evaluation.candidate_cost import CandidateCosts, Cost
from .evaluation.fitness import Fitness
from .supernet.supernet import Supernet

__all__ = ["NOTES", "Candidate", "ParetoSet", "pareto_set"]

NOTES = (
    "Accuracy is that of the search-validation set by the supernet's shared weights; after retraining it is another.",
    "Costs are counts, not measurements: MACs of a forward pass of one image in train state stand for time (the"
    " backward pass takes about twice as many), and parameters, gradients, momentum and kept activations for memory.",
    "The fused networks of all candidates cost the same.",
)


@dataclass(frozen=True)
class Candidate:
    """One Architecture of a population.

    Args:
        rank: its place by fitness, 0 the best; the name of its file in ``population/``.
        memory_bytes: of training with the batch size of the recipe.
        pareto: whether no other is at least as good in accuracy, MACs and memory, and better in one of them.
    """

    rank: int
    digest: str
    branches: int
    val_accuracy: float
    cost: Cost
    memory_bytes: int
    pareto: bool


@dataclass(frozen=True)
class ParetoSet:
    """A population with its costs, best fitness first."""

    batch_size: int
    candidates: tuple[Candidate, ...]

    @property
    def front(self) -> tuple[Candidate, ...]:
        """Those that no other beats."""
        return tuple(candidate for candidate in self.candidates if candidate.pareto)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of pareto.json."""
        return {
            "batch_size": self.batch_size,
            "candidates": [
                {
                    "rank": candidate.rank,
                    "digest": candidate.digest,
                    "branches": candidate.branches,
                    "val_accuracy": candidate.val_accuracy,
                    "params": candidate.cost.params,
                    "macs": candidate.cost.macs,
                    "activation_bytes": candidate.cost.activation_bytes,
                    "memory_bytes": candidate.memory_bytes,
                    "pareto": candidate.pareto,
                }
                for candidate in self.candidates
            ],
            "notes": list(NOTES),
        }


def pareto_set(
    supernet: Supernet,
    population: Sequence[Architecture],
    fitness: Sequence[Fitness],
    *,
    input_shape: tuple[int, ...],
    batch_size: int,
) -> ParetoSet:
    """Count what each candidate costs in training, and mark those that no other beats.

    Args:
        population: best fitness first.
        fitness: theirs.
        input_shape: (C, H, W) of one image.
        batch_size: of the training that memory is counted for.
    """
    costs = CandidateCosts(supernet.model, supernet.space, input_shape)
    counted = [costs.of(supernet.space.bits(architecture)) for architecture in population]
    aims = [
        (one.accuracy, -cost.macs, -cost.memory_bytes(batch_size)) for one, cost in zip(fitness, counted, strict=True)
    ]
    return ParetoSet(
        batch_size,
        tuple(
            Candidate(
                rank,
                architecture.digest,
                architecture.count,
                fitness[rank].accuracy,
                cost,
                cost.memory_bytes(batch_size),
                not any(_beats(other, aims[rank]) for other in aims),
            )
            for rank, (architecture, cost) in enumerate(zip(population, counted, strict=True))
        ),
    )


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine >= its for mine, its in zip(one, other, strict=True))
