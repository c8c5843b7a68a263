"""pareto.json: the last population of a search with what training each candidate costs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool, StrictStr

from irepdeploy.runs.schema import Count, Digest, JsonFile, Schema, Score, Scored

__all__ = ["Candidate", "ParetoSet"]

_NOTES = (
    "Scores are those of the search-validation set by the supernet's shared weights; after retraining they are others.",
    "Costs are counts, not measurements: MACs of a forward pass of one image in train state stand for time (the"
    " backward pass takes about twice as many), and parameters, gradients, momentum and kept activations for memory.",
    "The fused networks of all candidates cost the same.",
)


class Candidate(Schema):
    """An Architecture of a population, ranked by fitness from 0; its file in ``population/`` is named by its rank.

    Accuracy, or the score by another metric, is by the supernet's shared weights. `macs` and `activation_bytes` (kept
    for the backward pass) are those of the forward pass of one image in train state; `memory_bytes` is that of training
    at the recipe's batch size. `pareto`: no other is at least as good in accuracy, MACs and memory, and better in one
    of them.
    """

    rank: Count
    digest: Digest
    branches: Count
    val_accuracy: Score
    params: Count
    macs: Count
    activation_bytes: Count
    memory_bytes: Count
    pareto: StrictBool


class ParetoSet(Scored, JsonFile):
    """A population with its costs, best fitness first; memory is counted for training with `batch_size`."""

    kind = "pareto.json of a search"
    hint = "`irepdeploy search` writes it at its end"

    batch_size: Annotated[int, Field(ge=1, lt=2**31, strict=True)]
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    notes: tuple[StrictStr, ...] = _NOTES

    @property
    def front(self) -> tuple[Candidate, ...]:
        """Candidates that no other dominates."""
        return tuple(candidate for candidate in self.candidates if candidate.pareto)
