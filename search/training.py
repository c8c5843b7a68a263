"""Train one network: plain, or with the branches of an Architecture."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from irepdeploy.arch import Architecture
from irepdeploy.checkpoint import load, save
from irepdeploy.files import canonical_json, write_json
from irepdeploy.memory_format import channels_last
from irepdeploy.origin import origin_of, set_origin
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.reparam.presets import preset_of

from .builders import build_net, load_data, with_branches
from .evaluate import Fitness, score
from .loop import batches, check_finite, check_loss, clip, cosine, set_rate, sgd
from .run_folder import RunFolder

__all__ = ["Training", "TrainingResult", "architecture_of"]

Advance = Callable[[int, str], None]


@dataclass(frozen=True)
class TrainingResult:
    """What a training reached.

    Args:
        val_accuracy: of the best epoch, fused, on the search-validation set.
        test_accuracy: of that checkpoint, fused; the test set was read this once.
        seconds_per_epoch: median.
    """

    branches: int
    val_accuracy: float
    test_accuracy: float
    best_epoch: int
    epochs: int
    seconds_per_epoch: float
    seconds: float


def architecture_of(recipe: Recipe) -> Architecture | None:
    """All branches of the recipe's preset wherever possible, or None for the plain network (``branches=none``)."""
    preset = preset_of(recipe.branches)
    if not preset.branches:
        return None
    full = insert_branches(build_net(recipe), recipe.branches)
    kept = {layer.name: layer.branches for layer in origin_of(full).layers}
    return Architecture.from_branches(kept, preset.names)


class Training:
    """One training in a folder, which can be killed and resumed.

    The folder gets journal.jsonl, state.pt and last.pt after each epoch, best.pt when the fused network's accuracy on
    the search-validation set has risen, and at the end result.json.

    Args:
        recipe: what to do.
        out: the folder.
        architecture: which branches to train with; None trains the plain network.

    Raises:
        OutputError: the folder cannot be written.
        InputError: a run is there, and neither `resume` nor `overwrite` was asked for.
        RecipeError: the Architecture is of another network.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        architecture: Architecture | None,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.recipe = recipe
        self.settings = recipe.train
        digest = None if architecture is None else architecture.digest
        identity = canonical_json([recipe.model_dump_json(exclude={"scales", "search"}), digest]).decode()
        results = ("best.pt", "last.pt", "result.json")
        self.data = load_data(recipe)
        plain = build_net(recipe)
        factors = self.settings.factors if preset_of(recipe.branches).scaled else "none"
        net = plain if architecture is None else with_branches(plain, architecture, factors)
        self.net = channels_last(set_origin(net, statistics="trained"))
        self.branches = 0 if architecture is None else architecture.count
        self.folder = RunFolder(out, identity, results, resume=resume, overwrite=overwrite)
        self.optimizer = sgd(self.net.parameters(), self.settings.weights)
        self.order = torch.Generator().manual_seed(recipe.seed)
        self.epoch = 0
        self.best: tuple[Fitness, int] | None = None
        self.epoch_seconds: list[float] = []
        state = self.folder.load_state() if resume else None
        if state is not None:
            self._load(state)
        else:
            self.folder.write_start(recipe, architecture=None if architecture is None else architecture.to_dict())

    def run(self, advance: Advance = lambda epochs, note: None) -> TrainingResult:
        """Run what is left.

        Args:
            advance: called with the number of epochs done since the last call, and a short text.

        Raises:
            RunError: the loss is no number, or the disk is full; the last good state is kept.
        """
        advance(self.epoch, "")
        while self.epoch < self.settings.epochs:
            started = time.perf_counter()
            loss = self._train_epoch()
            self.epoch_seconds.append(time.perf_counter() - started)
            fitness = score(self._fused(), self.data.val)
            check_loss(-fitness.negative_loss, self.epoch, "training")
            self.folder.write("epoch", epoch=self.epoch, loss=loss, val_accuracy=fitness.accuracy)
            if self.best is None or fitness > self.best[0]:
                self.best = fitness, self.epoch
                save(self.net, self.folder.path / "best.pt")
            self.epoch += 1
            save(self.net, self.folder.path / "last.pt")
            self._save()
            advance(1, f"loss {loss:.3f}  val {fitness.accuracy:.1%}")
        return self._finish()

    def _train_epoch(self) -> float:
        self.net.train()
        settings = self.settings
        set_rate(self.optimizer, cosine(settings.weights.lr, self.epoch, settings.epochs))
        losses = []
        for images, labels in batches(self.data.train, settings.batch_size, self.order):
            self.optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(self.net(images), labels)
            losses.append(float(loss.detach()))
            check_loss(losses[-1], self.epoch, "training")
            loss.backward()
            clip(self.optimizer, settings.weights.clip)
            self.optimizer.step()
        self.net.eval()
        check_finite(self.net, self.epoch, "training")
        return sum(losses) / len(losses)

    def _fused(self) -> nn.Module:
        return fuse(self.net, prove=False) if self.branches else self.net

    def _finish(self) -> TrainingResult:
        assert self.best is not None
        fitness, epoch = self.best
        best = channels_last(load(self.folder.path / "best.pt"))
        test = score(fuse(best) if self.branches else best, self.data.load_test())
        result = TrainingResult(
            branches=self.branches,
            val_accuracy=fitness.accuracy,
            test_accuracy=test.accuracy,
            best_epoch=epoch + 1,
            epochs=self.epoch,
            seconds_per_epoch=statistics.median(self.epoch_seconds),
            seconds=sum(self.epoch_seconds),
        )
        write_json(self.folder.path / "result.json", asdict(result))
        return result

    def _save(self) -> None:
        assert self.best is not None
        fitness, epoch = self.best
        self.folder.save_state(
            {
                "model": self.net.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "order": self.order.get_state(),
                "epoch": self.epoch,
                "best": (fitness.accuracy, fitness.negative_loss, epoch),
                "epoch_seconds": self.epoch_seconds,
            }
        )

    def _load(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.set_state(state["order"])
        self.epoch = state["epoch"]
        accuracy, negative_loss, epoch = state["best"]
        self.best = Fitness(accuracy, negative_loss), epoch
        self.epoch_seconds = state["epoch_seconds"]
