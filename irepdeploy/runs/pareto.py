"""pareto.json: the last population of a search with the training cost of each candidate."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool, StrictStr

from irepdeploy.runs.schema import Count, Digest, JsonFile, Schema, Score, Scored

__all__ = ["Candidate", "ParetoSet"]

_NOTES = (
    "Scores are measured on the search-validation set with the supernet's shared weights; retraining changes them.",
    "Costs are counts, not measurements: MACs of one image's forward pass in train state represent time (the backward"
    " pass takes about twice as many); parameters, gradients, momentum and kept activations represent memory.",
    "The fused networks of all candidates cost the same.",
)


class Candidate(Schema):
    """An Architecture of a population, ranked by fitness from 0; its file in ``population/`` is named after its rank.

    The accuracy, or the score by another metric, is measured with the supernet's shared weights. `macs` and
    `activation_bytes` (kept for the backward pass) describe the forward pass of one image in train state;
    `memory_bytes` is the memory of training at the recipe's batch size. `pareto` is True if no other candidate is at
    least as good in accuracy, MACs and memory, and better in one of them.
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
    """A population with its costs, best fitness first; memory is counted for training at `batch_size`."""

    kind = "pareto.json of a search"
    hint = "`irepdeploy search` writes it at its end"

    batch_size: Annotated[int, Field(ge=1, lt=2**31, strict=True)]
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    notes: tuple[StrictStr, ...] = _NOTES

    @property
    def front(self) -> tuple[Candidate, ...]:
        """The candidates that no other candidate dominates."""
        return tuple(candidate for candidate in self.candidates if candidate.pareto)
