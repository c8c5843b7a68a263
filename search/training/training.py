"""Train one network: plain, or with the branches of an Architecture."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from irepdeploy.console import log
from irepdeploy.data import Stream, StreamLoader
from irepdeploy.errors import CheckpointError, InputError, RecipeError
from irepdeploy.files import canonical_json
from irepdeploy.network.backbone_weights import load_backbone
from irepdeploy.network.checkpoint import load, read, save
from irepdeploy.plots.run_pictures import save_run_pictures
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.origin import origin_of, set_origin
from irepdeploy.reparam.presets import preset_of
from irepdeploy.reparam.step import set_step
from irepdeploy.runs.journal import Epoch, Event, Start
from irepdeploy.runs.result import TrainingResult
from irepdeploy.runtime.compiled import compile_step, require_compiler
from irepdeploy.runtime.memory_format import channels_last
from irepdeploy.tasks import Classification, Detection
from irepdeploy.tasks.called import training_loss

from ..evaluation.confusion import Confusion
from ..evaluation.evaluate import Fitness, score
from ..evaluation.fitness import evaluation_batch, outcome_of
from ..evaluation.preflight import preflight
from ..execution.device import device_name, ranks_of
from ..execution.full_recipe import recipe_writer
from ..execution.loop import check_finite, check_loss, check_score, clip, enlarge, memory_guard, seed_epoch
from ..execution.progress import Advance
from ..execution.ranks import Ranks
from ..execution.run_folder import RunFolder, start_facts
from ..supernet.batches import Batches, batches_of, with_last
from ..supernet.builders import with_branches
from ..supernet.subject import Subject, subject_of
from .averaging import averaged
from .early_fuse import fused_early, fused_structure
from .freezing import Freeze
from .samples import save_samples
from .steps import GivenSteps, OptimizerFactory, RecipeSteps, SchedulerFactory

__all__ = ["Training"]

_SECONDS_BETWEEN_NOTES = 1.0
# Reading the loss synchronizes a GPU, so it is not read after every batch.
_STEPS_BETWEEN_LOOKS = 50
_BATCHES_OF_STATISTICS = 16


class Training:
    """One training run, in a folder shared by all ranks; it can be killed and resumed.

    The run writes journal.jsonl, state.pt and last.pt after each epoch, best.pt whenever the fused network's accuracy
    on the search-validation set has risen, and result.json at the end.

    Without an Architecture, the network gets all branches of the recipe's preset wherever possible. `subject` holds
    network, data and task, by default those of the recipe. `net`, which already has its branches, replaces the network
    of the subject; `model` builds its class when a checkpoint is read. `identity` identifies the run in addition to
    recipe and Architecture. `optimizer` makes an optimizer from the parameters, and `scheduler` a learning-rate
    scheduler from the optimizer, which is stepped after each epoch; by default the recipe defines both. `callbacks` are
    called with every event of the journal. `ranks` are the processes that share each batch, by default those that
    torchrun started, or this process alone.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        architecture: Architecture | None,
        *,
        net: nn.Module | None = None,
        model: Callable[[], nn.Module] | nn.Module | None = None,
        identity: Sequence[str] = (),
        subject: Subject | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        resume: bool = False,
        overwrite: bool = False,
        tensorboard: bool = False,
        ranks: Ranks | None = None,
        callbacks: Sequence[Callable[[Event], None]] = (),
    ) -> None:
        self.recipe = recipe
        self.settings = settings = recipe.train
        self.ranks = ranks_of(recipe) if ranks is None else ranks
        if settings.compile:
            require_compiler(self.ranks.device, "train.compile")
            if recipe.task == Detection.name:
                text = "the steps of a detector depend on values: no graph holds them"
                raise RecipeError(text, where="train.compile")
        digest = None if architecture is None else architecture.digest
        results = ("best.pt", "last.pt", "result.json")
        if subject is None:
            subject = subject_of(
                recipe, self.ranks.device, batch_size=settings.batch_size, smoothing=settings.label_smoothing
            )
        self.data, self.task = subject, subject.task
        if subject.note and self.ranks.first:
            log(subject.note)
        self._batch = evaluation_batch(subject.input_shape)
        if model is None and net is None and subject.facts:
            model = subject.net
        facts = canonical_json([recipe.model_dump_json(exclude={"scales", "search"}), digest, *identity]).decode()
        run = subject.identity(facts)
        if net is None:
            net = subject.net
            factors = settings.factors if preset_of(recipe.branches).scaled else "none"
            if preset_of(recipe.branches).branches:
                silent = settings.branch_init == "zero"
                net = with_branches(net, architecture or recipe.branches, factors, subject.where, silent=silent)
        source = f"trained, moving average {settings.ema:g} of the weights" if settings.ema else "trained"
        self.net = channels_last(set_origin(net, statistics=source)).to(self.ranks.device)
        if recipe.backbone.weights is not None:
            load_backbone(self.net, recipe.backbone.weights)
        self.freeze = Freeze(self.net, recipe.freeze)
        blocks = [module for module in self.net.modules() if isinstance(module, RepBlock)]
        self.has_blocks = bool(blocks)
        self.branches = sum(len(block.active) for block in blocks)
        if blocks:
            set_step(self.net, settings.step)
        # None: the branches are fused after the training, by the export.
        self._fuse_epoch = settings.fused_epochs if blocks else None
        if self._fuse_epoch is not None:
            if optimizer is not None or scheduler is not None:
                text = "a custom optimizer or scheduler refers to the parameters before the fuse"
                raise InputError(text, where="train.fuse_at", hint="leave one of them out")
            fused_structure(self.net)
        self._model = model
        self.order = torch.Generator().manual_seed(recipe.seed)
        # Only used at the end, but opened now so that a missing test set is reported early.
        self._test = self.data.load_test() if self.ranks.first else None
        check = None
        if subject.facts:
            check = preflight(self.net, subject, settings.batch_size, self.ranks.device, self._test)
        rank, size = self.ranks.rank, self.ranks.size
        self.loader: Batches = batches_of(
            subject, settings.batch_size, self.order, settings.augment, check, self.ranks.device, rank=rank, ranks=size
        )
        where = f"{self.ranks.size} x {self.ranks.device.type}"
        self.steps = (
            RecipeSteps(self.net, settings)
            if optimizer is None and scheduler is None
            else GivenSteps(self.net, settings, optimizer, scheduler)
        )
        self.optimizer = self.steps.optimizer
        self.folder = RunFolder(
            out,
            run,
            results,
            resume=resume,
            overwrite=overwrite,
            ranks=self.ranks,
            computed_on=where,
            callbacks=(recipe_writer(recipe, out), *callbacks),
        )
        self.average = averaged(self.net, settings.ema) if settings.ema else None
        self.epoch = 0
        self.best: tuple[Fitness, int] | None = None
        self.epoch_seconds: list[float] = []
        # Score of the test set, once it has been read.
        self.confusion = Confusion()
        state = self.folder.load_state()
        if state is not None:
            with self.folder.restoring():
                self._load(state)
        else:
            self.folder.start(
                Start(
                    **start_facts(recipe),
                    device=device_name(self.ranks.device),
                    devices=self.ranks.size,
                    architecture=origin_of(self.net).architecture.to_dict() if self.has_blocks else None,
                    **self.data.recorded,
                )
            )
        if tensorboard:
            self.folder.mirror_to_tensorboard()
        self._connect()

    def _connect(self) -> None:
        # The wrapper shares its weights with `net` and sums the gradients of all ranks.
        objective = self.task.objective(self.net)
        self._whole = objective is not None
        trained = self.net if objective is None else objective
        self._forward = DistributedDataParallel(trained) if self.ranks.size > 1 else trained
        self._call: Callable[..., Any] = self._forward
        if self.settings.compile:
            self._call = compile_step(self._forward, self.ranks.device, "train.compile")

    def _train_on(self, net: nn.Module) -> None:
        """Continue with a fused network and a new optimizer."""
        self.net, self.has_blocks = channels_last(net).to(self.ranks.device), False
        self.freeze = Freeze(self.net, self.recipe.freeze)
        self.steps = RecipeSteps(self.net, self.settings)
        self.optimizer = self.steps.optimizer

    def _fuse_early(self) -> None:
        # The same batches in every process, drawn without affecting the order of the training.
        order = torch.Generator().manual_seed(self.recipe.seed)
        settings = self.settings
        batches = batches_of(self.data, settings.batch_size, order, settings.augment, None, self.ranks.device)
        self._train_on(fused_early(self.net, itertools.islice(batches, _BATCHES_OF_STATISTICS)))
        self._connect()

    def run(self, advance: Advance = lambda epochs, note: None) -> TrainingResult:
        """Run the remaining epochs; `advance` gets the number of epochs since its last call and a short text."""
        advance(self.epoch, "")
        while self.epoch < self.settings.epochs:
            started = time.perf_counter()
            with memory_guard(f"epoch {self.epoch + 1} of the training", self.ranks.device, "train.batch_size"):
                if self.epoch == self._fuse_epoch:
                    self._fuse_early()
                loss, rate = self.train_epoch(lambda note: advance(0, note))
                fitness = self._score()
            self.epoch_seconds.append(time.perf_counter() - started)
            check_loss(-fitness.negative_loss, self.epoch, "training")
            check_score(fitness.value, self.task.metric.name, self.epoch, "training")
            self.folder.write(Epoch(epoch=self.epoch, loss=loss, val_accuracy=fitness.value, images_per_second=rate))
            if self.best is None or fitness > self.best[0]:
                self.best = fitness, self.epoch
                self._save_net("best.pt")
            self.epoch += 1
            self.steps.end_epoch()
            self._save_net("last.pt")
            self._save()
            advance(1, f"loss {loss:.3f}  val {self.task.metric.text(fitness.value)}  {rate:.0f} images/s")
        return self._finish()

    @property
    def trained(self) -> nn.Module:
        """The network that is scored, saved and fused: the moving average if there is one."""
        if self.average is None:
            return self.net
        module = self.average.module
        assert isinstance(module, nn.Module)
        return module

    def train_epoch(self, report: Callable[[str], None]) -> tuple[float, float]:
        """Train for one epoch; return its mean loss and the images per second over all ranks."""
        settings = self.settings
        self._forward.train()
        self.freeze.apply()
        share = self.epoch / settings.epochs
        seed_epoch(self.recipe.seed, self.epoch)
        for module in self.net.modules():
            if isinstance(module, RepBlock):
                module.drop_path = settings.drop_path * share
        total = torch.zeros((), device=self.ranks.device)
        # 0 for a stream of unknown length.
        seen, steps = 0, len(self.loader)
        if isinstance(self.loader, StreamLoader):
            self.loader.epoch = self.epoch
        started = reported = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        for step, (images, labels), last in with_last(self.loader):
            # The last step of an epoch may accumulate fewer batches.
            begin = step - step % settings.accumulate
            parts = min(settings.accumulate, max(steps - begin, 1)) if steps else settings.accumulate
            with torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=settings.amp):
                loss = training_loss(self.task, self._call, images, labels, whole=self._whole)
            (loss / parts).backward()
            total += loss.detach()
            if (step + 1) % _STEPS_BETWEEN_LOOKS == 0 or last:
                check_loss(float(total), self.epoch, "training", getattr(self.data.train, "images", images))
            if step + 1 == begin + parts or last:
                if step + 1 < begin + parts:
                    enlarge(self.net, parts / (step + 1 - begin))
                self.steps.set_rate(self.epoch, min(step / max(steps, step + 1), 1.0), self.epoch * steps + step)
                clip(self.optimizer, settings.weights.clip)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                if self.average is not None:
                    self.average.update_parameters(self.net)
            seen += len(images) * self.ranks.size
            now = time.perf_counter()
            if now - reported > _SECONDS_BETWEEN_NOTES:
                reported = now
                report(f"{seen}/{len(self.data.train)} images  {seen / (now - started):.0f} images/s")
        self._forward.eval()
        check_finite(self.net, self.epoch, "training")
        return float(total) / (step + 1), seen / (time.perf_counter() - started)

    def _score(self) -> Fitness:
        """Score the fused network on the search-validation set, with the statistics of the first rank, as saved."""
        mine = [score(self._fused(), self.data.val, self._batch, self.task)] if self.ranks.first else []
        return self.ranks.gather(mine, 1)[0]

    def _fused(self) -> nn.Module:
        net = self.trained.eval()
        return fuse(net, prove=False) if self.has_blocks else net

    def _finish(self) -> TrainingResult:
        result = self.ranks.gather([self._result()] if self.ranks.first else [], 1)[0]
        if self.ranks.first:
            result.write(self.folder.path / "result.json")
        return result

    def _result(self) -> TrainingResult:
        assert self.best is not None
        fitness, epoch = self.best
        best = channels_last(load(self.folder.path / "best.pt", model=self._model))
        has_blocks = any(isinstance(module, RepBlock) for module in best.modules())
        plain = (fuse(best) if has_blocks else best).to(self.ranks.device)
        watch: Callable[[Any, Any], None] = lambda outputs, targets: None  # noqa: E731
        if isinstance(self.task, Classification):
            watch = self.confusion
        outcomes = {"val": outcome_of(plain, self.data.val, self._batch, self.task)}
        if self._test is not None:
            outcomes["test"] = outcome_of(plain, self._test, self._batch, self.task, watch)
        return TrainingResult(
            branches=self.branches,
            val_accuracy=fitness.value,
            test_accuracy=outcomes["test"].fitness.value if "test" in outcomes else None,
            best_epoch=epoch + 1,
            epochs=self.epoch,
            seconds_per_epoch=statistics.median(self.epoch_seconds),
            seconds=sum(self.epoch_seconds),
            device=device_name(self.ranks.device),
            devices=self.ranks.size,
            sets={name: outcome.score_set for name, outcome in outcomes.items()},
            **self.data.recorded,
        )

    def draw(self) -> None:
        """Draw the pictures of the finished run into its folder."""
        if self.ranks.first:
            counts, names = self.confusion.labelled(origin_of(self.net).classes)
            save_run_pictures(self.folder.path, counts, names, "test set")
            if isinstance(self.task, Detection) and isinstance(self._test, Stream) and self._test.by_index:
                save_samples(self.folder.path, self._test.source, origin_of(self.net))

    def require_test(self) -> None:
        """Raise InputError if there is no test set."""
        if self.ranks.first and self._test is None:
            raise InputError(
                "a comparison needs a test set, and there is none",
                where=self.recipe.data.label,
                hint='return "test" in addition to "train" and "val"',
            )

    def score_test(self, net: nn.Module) -> Fitness:
        """Score a network on the test set; only the first rank may call it."""
        assert self._test is not None
        return score(net, self._test, self._batch, self.task)

    def _save_net(self, name: str) -> None:
        if self.ranks.first:
            save(self.trained, self.folder.path / name)

    def _save(self) -> None:
        assert self.best is not None
        fitness, epoch = self.best
        self.folder.save_state(
            {
                "model": self.net.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.steps.state_dict(),
                "order": self.order.get_state(),
                "epoch": self.epoch,
                "best": (fitness.value, fitness.negative_loss, epoch),
                "epoch_seconds": self.epoch_seconds,
            }
        )

    def _load(self, state: dict[str, Any]) -> None:
        if self.ranks.first:
            # The end of the run may need it, hours from now.
            try:
                read(self.folder.path / "best.pt")
            except InputError as error:
                hint = "--overwrite starts over"
                raise CheckpointError(
                    f"the best network of this run: {error.what}", where=error.where, hint=hint
                ) from error
        if self._fuse_epoch is not None and state["epoch"] > self._fuse_epoch:
            self._train_on(fused_structure(self.net))
        self.net.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.steps.load_state_dict(state["optimizer"])
        self.order.set_state(state["order"])
        self.epoch = state["epoch"]
        accuracy, negative_loss, epoch = state["best"]
        self.best = Fitness(accuracy, negative_loss), epoch
        self.epoch_seconds = state["epoch_seconds"]
