"""result.json: the figures of a finished search, training or fine-tuning."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import Field, StrictStr, model_validator

from irepdeploy.errors import InputError
from irepdeploy.runs.schema import Amount, Count, Digest, JsonFile, Loss, Number, Schema, Score, Scored, Share

__all__ = ["FinetuneResult", "ScoreSet", "SearchFigures", "TrainingResult", "read_result"]


class SearchFigures(Scored, JsonFile):
    """The figures of a search and of the chosen Architecture, with shared weights on the search-validation set.

    `val_accuracy` is its score by the metric. `seconds` covers the whole run, including resumed parts. The spreads are
    the largest minus the smallest sigmoid. `figures` contains everything that the task reports about the chosen
    Architecture, such as the top-5 accuracy; files of earlier versions lack it.
    """

    kind = "result.json of a search"
    hint = "`irepdeploy search` writes it at its end"
    scores = ("val_accuracy",)
    added = ("metric", "figures")

    best_digest: Digest
    branches: Count
    val_accuracy: Score
    val_loss: Loss
    evaluations: Count
    seconds: Amount
    device: StrictStr
    devices: Number
    device_days: Amount
    alpha_spread: Share
    beta_spread: Share
    figures: dict[StrictStr, Score] = Field(default_factory=dict)


class ScoreSet(Schema):
    """Everything that a task reports about a set, by name, and the 95 % interval of its score with its method."""

    samples: Count
    figures: dict[StrictStr, Score]
    low: Score | None = None
    high: Score | None = None
    method: StrictStr | None = None


class TrainingResult(Scored, JsonFile):
    """The figures of a training. Accuracies, or scores by another metric, are those of the best epoch, fused.

    `best_epoch` counts from 1. The test set, if there is one, is read only for these figures. `seconds_per_epoch` is
    the median. `sets` contains more figures about "val" and "test"; files of earlier versions lack it.
    """

    kind = "result.json of a training"
    hint = "`irepdeploy train` writes it at its end"
    scores = ("val_accuracy", "test_accuracy")
    added = ("metric", "sets")

    branches: Count
    val_accuracy: Score
    test_accuracy: Score | None
    best_epoch: Number
    epochs: Number
    seconds_per_epoch: Amount
    seconds: Amount
    device: StrictStr
    devices: Number
    sets: dict[StrictStr, ScoreSet] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _best_is_one_of_them(self) -> Self:
        if self.best_epoch > self.epochs:
            raise ValueError(f"expected best_epoch of at most {self.epochs}, got {self.best_epoch}")
        return self


class FinetuneResult(Scored, JsonFile):
    """The figures of a fine-tuning: test scores of the given network and of the best epoch, both fused."""

    kind = "result.json of a fine-tuning"
    hint = "`irepdeploy train finetune` writes it at its end"
    scores = ("accuracy_before", "accuracy_after")

    accuracy_before: Score
    accuracy_after: Score
    training: TrainingResult


def read_result(folder: str | os.PathLike[str]) -> SearchFigures | TrainingResult | None:
    """Read the result.json of a search, a training, or the training of a fine-tuning; None if there is none.

    Raises:
        InputError: The file is damaged.
    """
    path = Path(folder) / "result.json"
    if not path.is_file():
        return None
    if (path.parent / "best.json").is_file():
        return SearchFigures.read(path)
    try:
        return TrainingResult.read(path)
    except InputError:
        with suppress(InputError):
            return FinetuneResult.read(path).training
        raise
