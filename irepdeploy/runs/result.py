"""result.json: the figures of a finished search, training or fine-tuning."""

from __future__ import annotations

from pydantic import StrictFloat, StrictInt, StrictStr

from irepdeploy.runs.schema import JsonFile

__all__ = ["FinetuneResult", "SearchFigures", "TrainingResult"]


class SearchFigures(JsonFile):
    """Figures of a search.

    Attributes:
        best_digest: Digest of the chosen Architecture; `branches`: how many it keeps.
        val_accuracy: Its accuracy on the search-validation set, in [0, 1], by shared weights; `val_loss`: its loss.
        evaluations: Candidates scored.
        seconds: Of the whole run, resumed parts added.
        device: Name of the device; `devices`: how many of them.
        device_days: Days of all devices together: GPU-days where they are GPUs.
        alpha_spread: Largest less smallest sigmoid(alpha); `beta_spread`: of sigmoid(beta).
    """

    kind = "result.json of a search"
    hint = "`irepdeploy search` writes it at its end"

    best_digest: StrictStr
    branches: StrictInt
    val_accuracy: StrictFloat
    val_loss: StrictFloat
    evaluations: StrictInt
    seconds: StrictFloat
    device: StrictStr
    devices: StrictInt
    device_days: StrictFloat
    alpha_spread: StrictFloat
    beta_spread: StrictFloat


class TrainingResult(JsonFile):
    """Figures of a training.

    Attributes:
        branches: How many branches the network has.
        val_accuracy: In [0, 1], of the best epoch, fused, on the search-validation set.
        test_accuracy: In [0, 1], of that checkpoint, fused; the test set is read this once.
        best_epoch: From 1.
        seconds_per_epoch: Median.
        device: Name of the device; `devices`: how many of them.
    """

    kind = "result.json of a training"
    hint = "`irepdeploy train` writes it at its end"

    branches: StrictInt
    val_accuracy: StrictFloat
    test_accuracy: StrictFloat
    best_epoch: StrictInt
    epochs: StrictInt
    seconds_per_epoch: StrictFloat
    seconds: StrictFloat
    device: StrictStr
    devices: StrictInt


class FinetuneResult(JsonFile):
    """Figures of a fine-tuning.

    Attributes:
        accuracy_before: In [0, 1], of the network as it was given, fused, on the test set.
        accuracy_after: Of the best epoch, fused, on the same set.
        training: Everything else.
    """

    kind = "result.json of a fine-tuning"
    hint = "`irepdeploy train finetune` writes it at its end"

    accuracy_before: StrictFloat
    accuracy_after: StrictFloat
    training: TrainingResult
