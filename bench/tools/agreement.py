"""Measure whether the evaluation modes rank candidates alike, and how much racing saves, on trained digits supernets.

Run ``python -m irepdeploy.bench.tools.agreement [FILE.jsonl]``. It takes a minute on one thread.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from irepdeploy.board.protocol import PROTOCOL_VERSION, ratio
from irepdeploy.console import table
from irepdeploy.data import Loader, Split
from irepdeploy.recipe import load_recipe
from irepdeploy.reparam.comparator import relative_error
from irepdeploy.search.evaluation.evaluate import PopulationEvaluator
from irepdeploy.search.evaluation.fitness import Fitness, Outcome
from irepdeploy.search.evaluation.racing import cuts_of, race
from irepdeploy.search.execution.loop import clip, optimizer_of
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.supernet.builders import build_supernet, load_data
from irepdeploy.search.supernet.space import Bits
from irepdeploy.search.supernet.supernet import Supernet

from .harness import keep_line, samples_of

__all__ = ["Agreement", "RacingFigures", "agreement", "beta_outcomes", "levels", "simulated_races", "trained_supernet"]

_CANDIDATES = 64
_SHARE, _ERROR = 0.1, 0.05
_PARENTS = 0.25


@dataclass(frozen=True)
class Agreement:
    """Agreement of fused evaluation with multi-branch evaluation.

    Args:
        distinct: Number of distinct accuracies among the candidates.
        error: Largest relative error of the logits of a candidate fused in float32.
        same_ranking: Whether the ranking in float32 is the same, with equal accuracies ranked by loss.
        kendall_bf16: Kendall's tau of the ranking in bfloat16.
    """

    distinct: int
    error: float
    same_ranking: bool
    kendall_bf16: float


@dataclass(frozen=True)
class RacingFigures:
    """Results of racing in simulated selections, each with a different order of the images.

    Args:
        same: Share of selections with the same parents as without racing.
        speed: Ratio of images scored without racing to images scored with it.
    """

    same: float
    speed: float


def trained_supernet(epochs: int, seed: int = 0, val: int = 1000) -> tuple[Supernet, Split, list[Bits]]:
    """Return a digits supernet after some epochs, its search-validation set, and 64 random candidates."""
    recipe = load_recipe(recipe_path("digits"), [f"data.options.val={val}", f"seed={seed}"])
    data = load_data(recipe)
    supernet = build_supernet(recipe, data)
    random = np.random.default_rng(seed)
    size = supernet.space.size

    def candidate() -> Bits:
        bits = np.zeros(size, dtype=bool)
        bits[random.permutation(size)[: size * 2 // 3]] = True
        return bits

    optimizer = optimizer_of(supernet.weights(), recipe.search.weights)
    loader = Loader(data.train, recipe.search.batch_size, torch.Generator().manual_seed(seed))
    supernet.model.train()
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad(set_to_none=True)
            supernet.accumulate(images, labels, [candidate() for _ in range(3)])
            clip(optimizer, recipe.search.weights.clip)
            optimizer.step()
    supernet.model.eval()
    return supernet, data.val, [candidate() for _ in range(_CANDIDATES)]


def agreement(supernet: Supernet, data: Split, candidates: Sequence[Bits]) -> Agreement:
    """Score `candidates` in each mode."""
    evaluators = {
        mode: PopulationEvaluator(supernet, data, mode=mode) for mode in ("multi-branch", "fused", "fused-bf16")
    }
    found = {mode: evaluator.evaluate(candidates) for mode, evaluator in evaluators.items()}
    errors = []
    with torch.inference_mode():
        images = data.images[:100]
        for bits in candidates:
            expected, fused = (evaluators[mode].network(bits)(images).numpy() for mode in ("multi-branch", "fused"))
            errors.append(relative_error(expected, fused))
    supernet.select(None)
    reference = found["multi-branch"]
    return Agreement(
        distinct=len({fitness.value for fitness in reference}),
        # Python's max would ignore NaN.
        error=float(np.max(errors)),
        same_ranking=_order(reference) == _order(found["fused"]),
        kendall_bf16=float(np.nan_to_num(kendalltau(levels(reference), levels(found["fused-bf16"])).statistic)),
    )


def simulated_races(
    outcomes: Sequence[Outcome], selections: int, *, share: float = _SHARE, error: float = _ERROR, seed: int = 0
) -> RacingFigures:
    """Race candidates with known outcomes repeatedly; a quarter of them become parents."""
    random = np.random.default_rng(seed)
    images, parents = len(outcomes[0]), round(len(outcomes) * _PARENTS)
    edges = [0, *cuts_of(images, share), images]
    same, scored = 0, 0.0
    truth = set(_order([outcome.fitness for outcome in outcomes])[:parents])
    for _ in range(selections):
        parts = list(np.split(random.permutation(images), edges[1:-1]))

        def score(indices: Sequence[int], part: int, parts: list[Any] = parts) -> list[Outcome]:
            return [Outcome(outcomes[i].statistics[:, parts[part]]) for i in indices]

        found = race(score, len(outcomes), [end - start for start, end in itertools.pairwise(edges)], parents, error)
        same += set(found.ranking[:parents]) == truth
        scored += found.share
    return RacingFigures(same / selections, selections / scored)


def beta_outcomes(candidates: int, images: int, *, spread: float = 0.25, seed: int = 0) -> list[Outcome]:
    """Return synthetic outcomes; candidates share each image's probability of being right, from a beta distribution.

    Under Beta(1.35, 0.15), most images are nearly always right or wrong, with 90 % right on average. Each candidate
    shifts the log-odds of all images by a draw from N(0, spread).
    """
    random = np.random.default_rng(seed)
    odds = np.clip(random.beta(1.35, 0.15, images), 1e-6, 1 - 1e-6)
    margins = np.log(odds / (1 - odds)) + spread * random.normal(size=(candidates, 1))
    right = random.random((candidates, images)) < 1 / (1 + np.exp(-margins))
    return [Outcome(np.stack([row, np.logaddexp(0, -margin)])) for row, margin in zip(right, margins, strict=True)]


def measured_race(supernet: Supernet, data: Split, candidates: Sequence[Bits], rounds: int) -> dict[str, list[int]]:
    """Return the nanoseconds of scoring all candidates in full and by racing, including the fuse, interleaved."""
    evaluator = PopulationEvaluator(supernet, data, batch_size=100, cuts=cuts_of(len(data), _SHARE))
    parents = round(len(candidates) * _PARENTS)

    def full() -> None:
        evaluator.refresh()
        evaluator.evaluate(candidates)

    def raced() -> None:
        evaluator.refresh()
        race(
            lambda indices, part: evaluator.outcomes([candidates[index] for index in indices], part),
            len(candidates),
            evaluator.sizes,
            parents,
            _ERROR,
        )

    return samples_of({"in full": full, "racing": raced}, rounds, warmup_runs=1)


def main(record: str | None = None) -> None:
    """Measure, print tables, and append the figures to `record`."""
    torch.set_num_threads(1)
    agreements, races, samples = {}, {}, {}
    for epochs in (4, 8, 16):
        supernet, data, candidates = trained_supernet(epochs)
        name = f"digits, {epochs} epochs"
        agreements[name] = agreement(supernet, data, candidates)
        races[name] = simulated_races(PopulationEvaluator(supernet, data).outcomes(candidates), 100)
        samples[name] = measured_race(supernet, data, candidates, rounds=8)
    for count, spread in itertools.product((64, 128), (0.25, 0.5)):
        made = beta_outcomes(count, 10_000, spread=spread)
        deviation = np.std([outcome.fitness.value for outcome in made])
        races[f"beta model, {count}, accuracies {deviation:.1%} apart"] = simulated_races(made, 100)
    table(
        "Fused against multi-branch, 64 candidates, 1,000 images",
        ["supernet", "distinct accuracies", "error of logits", "same ranking", "Kendall in bf16"],
        [
            [name, each.distinct, f"{each.error:.1e}", "yes" if each.same_ranking else "no", f"{each.kendall_bf16:.3f}"]
            for name, each in agreements.items()
        ],
    )
    rows = []
    for name, figures in races.items():
        timed = "-"
        if name in samples:
            found = ratio(samples[name]["in full"], samples[name]["racing"], seed=0)
            timed = f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"
        rows.append([name, f"{figures.same:.0%}", f"{figures.speed:.2f}", timed])
    table(
        f"Racing, a quarter become parents, {_SHARE:.0%} of the images a stage, error {_ERROR:.0%}, 100 selections",
        ["candidates", "same parents", "x fewer images", "x faster"],
        rows,
    )
    keep_line(
        record,
        "agreement of evaluation",
        protocol_version=PROTOCOL_VERSION,
        agreement={name: asdict(each) for name, each in agreements.items()},
        racing={name: asdict(each) for name, each in races.items()},
        samples_ns=samples,
    )


def levels(fitness: Sequence[Fitness]) -> list[float]:
    """Return numbers that rank like the fitness values."""
    found = {value: float(level) for level, value in enumerate(sorted(set(fitness)))}
    return [found[value] for value in fitness]


def _order(fitness: Sequence[Fitness]) -> list[int]:
    return sorted(range(len(fitness)), key=lambda index: fitness[index], reverse=True)


if __name__ == "__main__":
    main(*sys.argv[1:2])
