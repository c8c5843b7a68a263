"""Algorithm 1: warm up the supernet, then train, score and renew a population, evolution after evolution."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irepdeploy.arch import Architecture
from irepdeploy.files import output_folder, write_json
from irepdeploy.recipe import Recipe

from .builders import load_data
from .evaluate import Fitness, PopulationEvaluator
from .importance import Importance
from .loop import adam, batches, check_finite, check_loss, clip, cosine, set_rate, sgd
from .run_folder import RunFolder
from .space import Bits
from .strategies import strategy
from .supernet import Supernet

__all__ = ["Search", "SearchResult"]

Advance = Callable[[int, str], None]


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        best: the Architecture of the highest fitness in the last evolution.
        fitness: its accuracy on the search-validation set, by the supernet's shared weights.
        evaluations: candidates scored.
        seconds: of the whole run, resumed parts added.
    """

    best: Architecture
    fitness: Fitness
    population: tuple[Architecture, ...]
    evaluations: int
    seconds: float
    alpha_spread: float
    beta_spread: float

    def to_dict(self) -> dict[str, Any]:
        """Figures for result.json."""
        return {
            "best_digest": self.best.digest,
            "branches": self.best.count,
            "val_accuracy": self.fitness.accuracy,
            "val_loss": -self.fitness.negative_loss,
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "alpha_spread": self.alpha_spread,
            "beta_spread": self.beta_spread,
        }


class Search:
    """One run of Algorithm 1 in a folder, which can be killed and resumed.

    The folder gets journal.jsonl, state.pt after each epoch, and at the end best.json, population/ and result.json.

    Args:
        recipe: what to do.
        out: the folder.
        resume: go on with what is there.
        overwrite: begin anew although a run is there.

    Raises:
        OutputError: the folder cannot be written.
        InputError: a run is there, and neither `resume` nor `overwrite` was asked for.
        RecipeError: budget or population do not fit the network.
    """

    def __init__(self, recipe: Recipe, out: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.recipe = recipe
        self.settings = recipe.search
        self.data = load_data(recipe)
        self.supernet = Supernet(recipe)
        self.space = self.supernet.space
        self.strategy = strategy(self.space, self.settings)
        # After all that a recipe can be refused for: an old run is not thrown away for one that cannot begin.
        identity = recipe.model_dump_json(exclude={"scales", "train"})
        results = ("best.json", "result.json", "population/[0-9]*.json")
        self.folder = RunFolder(out, identity, results, resume=resume, overwrite=overwrite)
        self.weights = sgd(self.supernet.weights(), self.settings.weights)
        self.arch = adam(self.supernet.arch_parameters(), self.settings.arch)
        self.order = torch.Generator().manual_seed(recipe.seed)
        self.random = np.random.default_rng(recipe.seed)
        self.population = self.strategy.first(self.random)
        self.fitness: list[Fitness] = []
        self.epoch = 0
        self.evaluations = 0
        self.seconds = 0.0
        state = self.folder.load_state() if resume else None
        if state is not None:
            self._load(state)
        else:
            self.folder.write_start(
                recipe,
                layers=list(self.space.layers),
                branches=list(self.space.branches),
                positions=[list(position) for position in self.space.positions],
                budget=self.strategy.budget,
            )

    @property
    def epochs(self) -> int:
        """Epochs of the whole run, warm-up included."""
        return self.settings.warmup_epochs + self.settings.evolutions * self.settings.epochs_per_evolution

    def run(self, advance: Advance = lambda epochs, note: None) -> SearchResult:
        """Run what is left.

        Args:
            advance: called with the number of epochs done since the last call, and a short text.

        Raises:
            RunError: the loss is no number, or the disk is full; the last good state is kept.
        """
        settings = self.settings
        advance(self.epoch, "")
        scores = ""
        while self.epoch < self.epochs:
            started = time.perf_counter()
            warm = self.epoch < settings.warmup_epochs
            phase = "warm-up" if warm else f"evolution {self._evolution + 1}/{settings.evolutions}"
            loss = self._train_epoch(warm)
            self.folder.write("epoch", epoch=self.epoch, phase=phase, loss=loss)
            if not warm and (self.epoch - settings.warmup_epochs + 1) % settings.epochs_per_evolution == 0:
                scores = self._evolve()
            self.epoch += 1
            self.seconds += time.perf_counter() - started
            self._save()
            advance(1, f"{phase}  loss {loss:.3f}  {scores}")
        return self._finish()

    @property
    def _evolution(self) -> int:
        return (self.epoch - self.settings.warmup_epochs) // self.settings.epochs_per_evolution

    def _train_epoch(self, warm: bool) -> float:
        settings = self.settings
        model = self.supernet.model.train()
        set_rate(self.weights, cosine(settings.weights.lr, self.epoch, self.epochs))
        losses = []
        for images, labels in batches(self.data.train, settings.batch_size, self.order):
            self.weights.zero_grad(set_to_none=True)
            self.arch.zero_grad(set_to_none=True)
            subnets: list[Bits | None] = [None]
            if not warm:
                few = settings.subnets_per_step <= len(self.population)
                chosen = self.random.choice(len(self.population), size=settings.subnets_per_step, replace=not few)
                subnets = [self.population[index] for index in chosen]
            losses.append(self.supernet.accumulate(images, labels, subnets))
            check_loss(losses[-1], self.epoch, "search")
            clip(self.weights, settings.weights.clip)
            self.weights.step()
            if not warm:
                self.arch.step()
        model.eval()
        check_finite(model, self.epoch, "search")
        return sum(losses) / len(losses)

    def _evolve(self) -> str:
        """Score the population and make the next one from it, except after the last evolution."""
        self.fitness = PopulationEvaluator(self.supernet, self.data.val).evaluate(self.population)
        for fitness in self.fitness:
            check_loss(-fitness.negative_loss, self.epoch, "search")
        self.evaluations += len(self.population)
        importance = Importance.of(self.supernet.model, self.space)
        accuracies = [fitness.accuracy for fitness in self.fitness]
        ranking = self._ranking()
        best, mean = accuracies[ranking[0]], sum(accuracies) / len(accuracies)
        self.folder.write(
            "evolution",
            index=self._evolution,
            best=best,
            mean=mean,
            accuracy=accuracies,
            loss=[-fitness.negative_loss for fitness in self.fitness],
            population=["".join("1" if bit else "0" for bit in bits) for bits in self.population],
            alpha=importance.alpha.tolist(),
            beta=importance.beta.tolist(),
        )
        if self._evolution + 1 < self.settings.evolutions:
            self.population = self.strategy.next(self.population, ranking, importance, self.random)
        return f"best {best:.1%}, mean {mean:.1%}"

    def _ranking(self) -> list[int]:
        return sorted(range(len(self.fitness)), key=lambda index: self.fitness[index], reverse=True)

    def _finish(self) -> SearchResult:
        ranking = self._ranking()
        ordered = tuple(self.space.architecture(self.population[index]) for index in ranking)
        importance = Importance.of(self.supernet.model, self.space)
        result = SearchResult(
            best=ordered[0],
            fitness=self.fitness[ranking[0]],
            population=ordered,
            evaluations=self.evaluations,
            seconds=self.seconds,
            alpha_spread=float(np.ptp(importance.alpha)),
            beta_spread=float(np.ptp(importance.beta)),
        )
        folder = output_folder(self.folder.path / "population")
        for rank, architecture in enumerate(ordered):
            architecture.save(folder / f"{rank:03d}.json")
        result.best.save(self.folder.path / "best.json")
        write_json(self.folder.path / "result.json", result.to_dict())
        return result

    def _save(self) -> None:
        self.folder.save_state(
            {
                "model": self.supernet.model.state_dict(),
                "weights": self.weights.state_dict(),
                "arch": self.arch.state_dict(),
                "order": self.order.get_state(),
                "random": self.random.bit_generator.state,
                "population": [torch.from_numpy(bits) for bits in self.population],
                "fitness": [(fitness.accuracy, fitness.negative_loss) for fitness in self.fitness],
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
        self.epoch = state["epoch"]
        self.evaluations = state["evaluations"]
        self.seconds = state["seconds"]
