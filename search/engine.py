"""Algorithm 1: warm up the supernet, then train it, score the population and replace it in every evolution."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irepdeploy.console import log
from irepdeploy.data import StreamLoader
from irepdeploy.folders import make_folder
from irepdeploy.network.backbone_weights import load_backbone
from irepdeploy.recipe import Recipe
from irepdeploy.runs.journal import Epoch, Event, Evolution, SearchStart
from irepdeploy.runs.result import SearchFigures
from irepdeploy.runtime.compiled import require_compiler

from .evaluation.candidate_cost import CandidateCosts
from .evaluation.evaluate import PopulationEvaluator
from .evaluation.fitness import Fitness, Outcome, joined
from .evaluation.preflight import preflight
from .evaluation.racing import RaceResult, cuts_of, race
from .execution import loop
from .execution.device import device_name, ranks_of
from .execution.full_recipe import recipe_writer
from .execution.loop import (
    adam,
    check_finite,
    check_loss,
    check_score,
    clip,
    cosine,
    memory_guard,
    optimizer_of,
    set_rate,
)
from .execution.progress import Advance, labelled
from .execution.ranks import Ranks
from .execution.run_folder import RunFolder, start_facts
from .pareto import pareto_set
from .result import SearchResult
from .strategies import strategy
from .strategies.importance import Importance
from .supernet.batches import Batches, batches_of
from .supernet.space import Bits
from .supernet.subject import Subject, subject_of
from .supernet.supernet import Supernet
from .training.freezing import Freeze

__all__ = ["Search"]

_SECONDS_BETWEEN_NOTES = 1.0
_SECONDS_A_DAY = 86400


class Search:
    """One run of Algorithm 1, in a folder shared by all ranks; it can be killed and resumed.

    The run writes journal.jsonl, state.pt after each epoch, and at the end best.json, population/, pareto.json and
    result.json.

    Args:
        recipe: Settings of the run.
        out: Folder of the run.
        subject: Network, data and task; by default those of the recipe.
        resume: Continue the run in `out`.
        overwrite: Start over even if `out` holds a run.
        tensorboard: Mirror the journal's numbers for TensorBoard.
        ranks: Processes that share the subnets and candidates; by default those that torchrun started, or this process
            alone.
        callbacks: Functions called with every event of the journal, in the process that writes it.

    Raises:
        InputError: Network, data, task and recipe do not fit together, or `out` holds a run.
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        *,
        subject: Subject | None = None,
        resume: bool = False,
        overwrite: bool = False,
        tensorboard: bool = False,
        ranks: Ranks | None = None,
        callbacks: Sequence[Callable[[Event], None]] = (),
    ) -> None:
        self.recipe = recipe
        self.settings = recipe.search
        self.ranks = ranks_of(recipe) if ranks is None else ranks
        if subject is None:
            subject = subject_of(recipe, self.ranks.device, batch_size=recipe.search.evaluation.batch_size)
        self.data = subject
        if subject.note and self.ranks.first:
            log(subject.note)
        self.task = self.data.task
        if self.settings.compile:
            require_compiler(self.ranks.device, "search.compile")
        self.supernet = Supernet(
            self.data.net,
            recipe.branches,
            where=self.data.where,
            task=self.task,
            step=self.settings.step,
            compile=self.settings.compile,
        )
        if recipe.backbone.weights is not None:
            load_backbone(self.supernet.model, recipe.backbone.weights)
        self.freeze = Freeze(self.supernet.model, recipe.freeze)
        self.supernet.model.to(self.ranks.device)
        self.space = self.supernet.space
        self.strategy = strategy(self.space, self.settings)
        self.order = torch.Generator().manual_seed(recipe.seed)
        evaluation = self.settings.evaluation
        check = None
        self.costs: CandidateCosts | None = None
        if self.data.facts:
            check = preflight(self.supernet.model, self.data, evaluation.batch_size, self.ranks.device)
            # For the Pareto set: a network whose cost cannot be counted must fail now, not at the end of the search.
            self.costs = CandidateCosts(self.supernet.model, self.space, self.data.input_shape)
        augment = self.settings.augment
        self.loader: Batches = batches_of(
            self.data, self.settings.batch_size, self.order, augment, check, self.ranks.device
        )
        self.evaluator = PopulationEvaluator(
            self.supernet,
            self.data.val,
            evaluation.batch_size,
            mode=evaluation.mode,
            cuts=cuts_of(len(self.data.val), evaluation.racing.share),
            seed=recipe.seed,
        )
        # Only after every check of the recipe, so that no old run is discarded for one that cannot start.
        identity = self.data.identity(recipe.model_dump_json(exclude={"scales", "train"}))
        results = ("best.json", "result.json", "pareto.json", "population/[0-9]*.json")
        # With whole subnets the sums do not depend on the number of processes.
        divided = self.settings.split == "batch"
        where = f"{self.ranks.size if divided else 1} x {self.ranks.device.type}"
        self.folder = RunFolder(
            out,
            identity,
            results,
            resume=resume,
            overwrite=overwrite,
            ranks=self.ranks,
            computed_on=where,
            callbacks=(recipe_writer(recipe, out), *callbacks),
        )
        self.weights = optimizer_of(self.supernet.weights(), self.settings.weights)
        self.arch = adam(self.supernet.arch_parameters(), self.settings.arch)
        self.random = np.random.default_rng(recipe.seed)
        self.population = self.strategy.first(self.random)
        self.fitness: list[Fitness] = []
        self.ranking: list[int] = []
        self.epoch = 0
        self.evaluations = 0
        self.seconds = 0.0
        state = self.folder.load_state()
        if state is not None:
            with self.folder.restoring():
                self._load(state)
        else:
            self.folder.start(
                SearchStart(
                    **start_facts(recipe),
                    device=device_name(self.ranks.device),
                    devices=self.ranks.size,
                    layers=self.space.layers,
                    branches=self.space.branches,
                    positions=self.space.positions,
                    budget=self.strategy.budget.total,
                    **self.data.recorded,
                )
            )
        if tensorboard:
            self.folder.mirror_to_tensorboard()

    @property
    def epochs(self) -> int:
        """Number of epochs of the whole run, including the warm-up."""
        return self.settings.warmup_epochs + self.settings.evolutions * self.settings.epochs_per_evolution

    def run(self, advance: Advance = lambda epochs, note: None) -> SearchResult:
        """Run the remaining epochs; `advance` gets the number of epochs since its last call and a short text."""
        advance(self.epoch, "")
        best = ""
        while self.epoch < self.epochs:
            started = time.perf_counter()
            warm = self.epoch < self.settings.warmup_epochs
            phase = "warm-up" if warm else f"evolution {self._evolution + 1}/{self.settings.evolutions}"
            keys = ("search.batch_size", "search.evaluation.batch_size")
            with memory_guard(f"epoch {self.epoch + 1} of the search", self.ranks.device, *keys):
                loss, rate = self._train_epoch(warm, functools.partial(labelled(advance, phase), 0))
                self.folder.write(Epoch(epoch=self.epoch, phase=phase, loss=loss, images_per_second=rate))
                if self._ends_evolution:
                    advance(0, f"{phase}  scoring {len(self.population)} candidates")
                    best = self._evolve()
            self.epoch += 1
            self.seconds += time.perf_counter() - started
            self._save()
            advance(1, f"{phase}  loss {loss:.3f}  {best}  {rate:.0f} images/s")
        return self._finish()

    @property
    def _evolution(self) -> int:
        return (self.epoch - self.settings.warmup_epochs) // self.settings.epochs_per_evolution

    @property
    def _ends_evolution(self) -> bool:
        done = self.epoch + 1 - self.settings.warmup_epochs
        return done > 0 and done % self.settings.epochs_per_evolution == 0

    def _train_epoch(self, warm: bool, report: Callable[[str], None]) -> tuple[float, float]:
        """Train for one epoch; return its mean loss and the images per second."""
        settings = self.settings
        model = self.supernet.model.train()
        self.freeze.apply()
        set_rate(self.weights, cosine(settings.weights.lr, self.epoch, self.epochs))
        losses, seen = [], 0
        loop.seed_epoch(self.recipe.seed, self.epoch)
        if isinstance(self.loader, StreamLoader):
            self.loader.epoch = self.epoch
        started = reported = time.perf_counter()
        for images, labels in self.loader:
            self.weights.zero_grad(set_to_none=True)
            self.arch.zero_grad(set_to_none=True)
            subnets: list[Bits | None] = [None]
            if not warm:
                few = settings.subnets_per_step <= len(self.population)
                chosen = self.random.choice(len(self.population), size=settings.subnets_per_step, replace=not few)
                subnets = [self.population[index] for index in chosen]
            losses.append(
                self.supernet.accumulate(
                    images, labels, subnets, ranks=self.ranks, split=settings.split, amp=settings.amp
                )
            )
            check_loss(losses[-1], self.epoch, "search", images)
            clip(self.weights, settings.weights.clip)
            self.weights.step()
            if not warm:
                self.arch.step()
            seen += len(images)
            now = time.perf_counter()
            if now - reported > _SECONDS_BETWEEN_NOTES:
                reported = now
                report(f"{seen}/{len(self.data.train)} images  {seen / (now - started):.0f} images/s")
        model.eval()
        check_finite(model, self.epoch, "search")
        return sum(losses) / len(losses), seen / (time.perf_counter() - started)

    def _evolve(self) -> str:
        """Score the population and make the next one from it, except after the last evolution."""
        raced = self._rank()
        self.fitness, self.ranking = list(raced.fitness), list(raced.ranking)
        for fitness in self.fitness:
            check_loss(-fitness.negative_loss, self.epoch, "search")
            check_score(fitness.value, self.task.metric.name, self.epoch, "search")
        self.evaluations += len(self.population)
        importance = Importance.of(self.supernet.model, self.space)
        accuracies = [fitness.value for fitness in self.fitness]
        best, mean = accuracies[self.ranking[0]], sum(accuracies) / len(accuracies)
        evolution = Evolution(
            index=self._evolution,
            best=best,
            mean=mean,
            accuracy=tuple(accuracies),
            loss=tuple(-fitness.negative_loss for fitness in self.fitness),
            population=tuple("".join("1" if bit else "0" for bit in bits) for bits in self.population),
            alpha=tuple(importance.alpha.tolist()),
            beta=tuple(importance.beta.tolist()),
        )
        if len(self.evaluator.sizes) > 1:
            evolution = evolution.model_copy(update={"race": raced.facts})
        self.folder.write(evolution)
        if self._evolution + 1 < self.settings.evolutions:
            self.population = self.strategy.next(self.population, self.ranking, importance, self.random)
        text = self.task.metric.text
        return f"best {text(best)}, mean {text(mean)}"

    def _rank(self) -> RaceResult:
        """Score the population; each rank scores whole candidates."""
        self.evaluator.refresh()
        error = self.settings.evaluation.racing.error
        return race(self._outcomes, len(self.population), self.evaluator.sizes, self.settings.parent_count, error)

    def _outcomes(self, indices: Sequence[int], part: int) -> list[Outcome]:
        mine = [self.population[indices[place]] for place in self.ranks.share(len(indices))]
        # The outcomes themselves cannot be gathered: the class of their task may not be picklable.
        rows = [outcome.statistics for outcome in self.evaluator.outcomes(mine, part)]
        return [Outcome(each, self.supernet.task) for each in self.ranks.gather(rows, len(indices))]

    def _finish(self) -> SearchResult:
        ordered = tuple(self.space.architecture(self.population[index]) for index in self.ranking)
        fitnesses = tuple(self.fitness[index] for index in self.ranking)
        importance = Importance.of(self.supernet.model, self.space)
        figures = SearchFigures(
            best_digest=ordered[0].digest,
            branches=ordered[0].count,
            val_accuracy=fitnesses[0].value,
            val_loss=-fitnesses[0].negative_loss,
            evaluations=self.evaluations,
            seconds=self.seconds,
            device=device_name(self.ranks.device),
            devices=self.ranks.size,
            device_days=self.seconds * self.ranks.size / _SECONDS_A_DAY,
            alpha_spread=float(np.ptp(importance.alpha)),
            beta_spread=float(np.ptp(importance.beta)),
            figures=self._best_figures(),
            **self.data.recorded,
        )
        if self.ranks.first:
            folder = make_folder(self.folder.path / "population")
            for rank, architecture in enumerate(ordered):
                architecture.save(folder / f"{rank:03d}.json")
            ordered[0].save(self.folder.path / "best.json")
            pareto = pareto_set(
                self.supernet,
                ordered,
                fitnesses,
                input_shape=self.data.input_shape,
                batch_size=self.recipe.train.batch_size,
                metric=self.data.metric,
                costs=self.costs,
            )
            pareto.write(self.folder.path / "pareto.json")
            figures.write(self.folder.path / "result.json")
        self.ranks.barrier()
        return SearchResult(ordered, fitnesses, figures, self.folder.path)

    def _best_figures(self) -> dict[str, float]:
        """Score the best candidate again and return every figure that the task reports."""
        self.evaluator.refresh()
        parts = [self._outcomes([self.ranking[0]], part)[0] for part in range(len(self.evaluator.sizes))]
        return joined(parts).figures

    def _save(self) -> None:
        self.folder.save_state(
            {
                "model": self.supernet.model.state_dict(),
                "weights": self.weights.state_dict(),
                "arch": self.arch.state_dict(),
                "order": self.order.get_state(),
                "random": self.random.bit_generator.state,
                "population": [torch.from_numpy(bits) for bits in self.population],
                "fitness": [(fitness.value, fitness.negative_loss) for fitness in self.fitness],
                "ranking": self.ranking,
                "epoch": self.epoch,
                "evaluations": self.evaluations,
                "seconds": self.seconds,
            }
        )

    def _load(self, state: dict[str, Any]) -> None:
        self.supernet.model.load_state_dict(state["model"])
        self.weights.load_state_dict(state["weights"])
        self.arch.load_state_dict(state["arch"])
        self.order.set_state(state["order"])
        self.random.bit_generator.state = state["random"]
        self.population = [bits.numpy() for bits in state["population"]]
        self.fitness = [Fitness(*pair) for pair in state["fitness"]]
        self.ranking = state["ranking"]
        self.epoch = state["epoch"]
        self.evaluations = state["evaluations"]
        self.seconds = state["seconds"]
