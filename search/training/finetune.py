"""Fine-tune a pre-trained plain network with branches that start at zero, and fuse back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from irepdeploy.data import Dataset
from irepdeploy.errors import InputError, first_line
from irepdeploy.files import sha256
from irepdeploy.network.checkpoint import load
from irepdeploy.network.factory import Factory, remembered
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.reparam.origin import TRAIN, origin_of, set_origin
from irepdeploy.runs.result import FinetuneResult, TrainingResult
from irepdeploy.tasks import Classification

from ..execution.device import ranks_of
from ..execution.progress import Advance
from ..execution.ranks import Ranks
from ..supernet.builders import load_data
from ..supernet.subject import Subject, subject_of, with_data
from .training import Training

__all__ = ["Finetuning"]


class Finetuning:
    """One fine-tuning run in a folder, like `Training`; `irepdeploy export` takes its best.pt.

    The recipe's network is ignored, except for `net.where`. The branches, given as a preset or a published
    Architecture, start at zero: before the first step, the outputs in eval mode equal those of the plain or fused
    network in `source`. `model` builds the network of a checkpoint of a user-defined class.
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
        self.source = load(source, model=model)
        origin = origin_of(self.source)
        # Record the name of the factory, so that the next command does not need it.
        factory = remembered(origin) if model is None else model
        self.factory = factory.spec if isinstance(factory, Factory) else origin.factory
        self.label = origin.net or self.factory or type(self.source).__name__
        self.data = subject = self._subject(recipe, source, ranks)
        if recipe.data.factory is not None and subject.load_test() is None:
            raise InputError(
                "fine-tuning needs a test set to compare scores, and there is none", where=recipe.data.label
            )
        net = insert_branches(self.source, branches, recipe.net.where, preserve=True)
        described = origin_of(subject.net)
        if not origin.input_shape:
            set_origin(net, input_shape=described.input_shape)
        if origin.net is None:
            set_origin(net, factory=self.factory)
        set_origin(net, state=TRAIN, dataset=recipe.data.name, classes=described.classes)
        self.training = Training(
            recipe,
            out,
            None,
            net=net,
            model=factory,
            identity=[sha256(source), branches],
            subject=subject,
            resume=resume,
            overwrite=overwrite,
            tensorboard=tensorboard,
            ranks=ranks,
        )

    def _subject(self, recipe: Recipe, source: Path, ranks: Ranks | None) -> Subject:
        smoothing = recipe.train.label_smoothing
        if recipe.data.factory is None and recipe.task == Classification.name:
            data = load_data(recipe)
            _check_fits(self.source, data, source)
            found = with_data(copy.copy(self.source), data, Classification(label_smoothing=smoothing))
            classes = data.classes
        else:
            device = ranks_of(recipe).device if ranks is None else ranks.device
            size = recipe.train.batch_size
            found = subject_of(recipe, device, batch_size=size, smoothing=smoothing, given=self.source)
            classes = origin_of(found.net).classes
        set_origin(found.net, input_shape=found.input_shape, classes=classes)
        return found

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
        return FinetuneResult(
            accuracy_before=before.value,
            accuracy_after=found.test_accuracy,
            training=found,
            **self.training.data.recorded,
        )


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
            f"the network returns {found}, but {data.name} has {len(data.classes)} classes",
            where=where,
            hint="fine-tune a network with one logit for each class",
        )
