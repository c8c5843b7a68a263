"""Fine-tune a pre-trained plain network with branches that start at zero, and fuse back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from irepdeploy.data import Dataset
from irepdeploy.errors import InputError, first_line
from irepdeploy.files import sha256
from irepdeploy.network.checkpoint import load
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.reparam.origin import TRAIN, origin_of, set_origin
from irepdeploy.runs.result import FinetuneResult, TrainingResult
from irepdeploy.tasks import Classification

from ..execution.progress import Advance
from ..execution.ranks import Ranks
from ..supernet.builders import load_data
from ..supernet.subject import with_data
from .training import Training

__all__ = ["Finetuning"]


class Finetuning:
    """One fine-tuning run in a folder, like `Training`; `irepdeploy export` takes its best.pt.

    The recipe's network is ignored. The branches, a preset or a published Architecture by name, start at zero: before
    the first step the outputs in eval mode are those of the plain or fused network in `source`. `model` builds the
    class of a foreign checkpoint.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        source: Path,
        branches: str,
        *,
        model: Callable[[], nn.Module] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        tensorboard: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.seed)
        self.data = load_data(recipe)
        self.source = load(source, model=model)
        _check_fits(self.source, self.data, source)
        net = insert_branches(self.source, branches, preserve=True)
        set_origin(net, state=TRAIN, dataset=self.data.name, classes=self.data.classes)
        self.training = Training(
            recipe,
            out,
            None,
            net=net,
            model=model,
            identity=[sha256(source), branches],
            subject=with_data(self.source, self.data, Classification(label_smoothing=recipe.train.label_smoothing)),
            resume=resume,
            overwrite=overwrite,
            tensorboard=tensorboard,
            ranks=ranks,
        )

    def run(self, advance: Advance = lambda epochs, note: None) -> FinetuneResult:
        """Run the remaining epochs."""
        found = self.training.run(advance)
        ranks = self.training.ranks
        result = ranks.gather([self._result(found)] if ranks.first else [], 1)[0]
        if ranks.first:
            result.write(self.training.folder.path / "result.json")
        return result

    def _result(self, found: TrainingResult) -> FinetuneResult:
        blocks = any(isinstance(module, RepBlock) for module in self.source.modules())
        plain = fuse(self.source) if blocks else self.source
        device = self.training.ranks.device
        before = self.training.score_test(plain.to(device).eval())
        assert found.test_accuracy is not None
        return FinetuneResult(accuracy_before=before.value, accuracy_after=found.test_accuracy, training=found)


def _check_fits(net: nn.Module, data: Dataset, where: Path) -> None:
    shape = origin_of(net).input_shape
    size = "x".join(map(str, data.input_shape))
    try:
        with torch.inference_mode():
            logits = net.eval()(torch.zeros(1, *data.input_shape))
    except RuntimeError as error:
        takes = f"it reads {'x'.join(map(str, shape))}" if shape else first_line(error)
        raise InputError(f"the network cannot read the {size} images of {data.name}: {takes}", where=where) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, len(data.classes)):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"the network gives {found} where {data.name} has {len(data.classes)} classes",
            where=where,
            hint="fine-tune a network with one logit for each class",
        )
