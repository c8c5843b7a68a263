"""result.json: the figures of a finished search, training or fine-tuning."""

from __future__ import annotations

from typing import Self

from pydantic import StrictStr, model_validator

from irepdeploy.runs.schema import Amount, Count, Digest, JsonFile, Loss, Number, Share

__all__ = ["FinetuneResult", "SearchFigures", "TrainingResult"]


class SearchFigures(JsonFile):
    """Figures of a search: those of the chosen Architecture, by shared weights on the search-validation set.

    Seconds cover the whole run, including resumed parts; spreads are the largest minus the smallest sigmoid.
    """

    kind = "result.json of a search"
    hint = "`irepdeploy search` writes it at its end"

    best_digest: Digest
    branches: Count
    val_accuracy: Share
    val_loss: Loss
    evaluations: Count
    seconds: Amount
    device: StrictStr
    devices: Number
    device_days: Amount
    alpha_spread: Share
    beta_spread: Share


class TrainingResult(JsonFile):
    """Figures of a training; accuracies in [0, 1] are of the best epoch, from 1, fused.

    The test set is read only for this; `seconds_per_epoch` is the median.
    """

    kind = "result.json of a training"
    hint = "`irepdeploy train` writes it at its end"

    branches: Count
    val_accuracy: Share
    test_accuracy: Share
    best_epoch: Number
    epochs: Number
    seconds_per_epoch: Amount
    seconds: Amount
    device: StrictStr
    devices: Number

    @model_validator(mode="after")
    def _best_is_one_of_them(self) -> Self:
        if self.best_epoch > self.epochs:
            raise ValueError(f"expected best_epoch of at most {self.epochs}, got {self.best_epoch}")
        return self


class FinetuneResult(JsonFile):
    """Figures of a fine-tuning; accuracies on the test set of the network given and of the best epoch, both fused."""

    kind = "result.json of a fine-tuning"
    hint = "`irepdeploy train finetune` writes it at its end"

    accuracy_before: Share
    accuracy_after: Share
    training: TrainingResult
