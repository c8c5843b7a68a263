"""Racing: candidates that cannot become parents are dropped before being scored on the whole search-validation set.

The images are scored part by part, in random order. After each part a candidate is dropped where it is *beaten* by the
candidate that then holds the last rank of the parents. When the survivors have seen all images, every dropped candidate
is compared with the one that holds that rank in the end; those that it does not beat come back and see further parts,
until they are beaten or have seen all.

What is bounded. Let k be the number of parents and P that of candidates, and suppose that the parents found are not
the true ones, the k fittest on the whole set. Then j >= 1 dropped candidates are fitter than the one in the last rank,
which is therefore number k + j by true fitness, and each of the j was wrongly found beaten by it. That needs j false
findings among the k + j - 1 candidates fitter than number k + j, so by Markov's inequality its probability is at most
``(k + j - 1) / j * stages * alpha``, where alpha is the probability of one false finding. Summed over j, the parents
are the true ones with probability at least ``1 - error`` if alpha is ``error / (stages * sum of (k + j - 1) / j)``.

The probability is over the order of the images, for one selection; nothing is assumed of the candidates. A finding
compares two of them on the same images: with x the differences between what each image contributes to the two scores,
a candidate is beaten where ``sum(x) > z * sqrt((sum(x^2) + 2 max(x^2)) * (1 - n / N))``, n of N images seen. In a
classification sum(x) is d - b and sum(x^2) is d + b, with d images that only the other has right and b that only this
one has. That is the normal approximation for sampling without replacement, the largest difference added on either side
for few images; alpha is its level, which it keeps over the stages of a race, as a test computes exactly for accuracy.
For a score that is no mean over images, contributions are to first order. A candidate of equal or higher score is
never truly beaten, so that ties, which the loss decides, are safe too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from irepdeploy.errors import InputError
from irepdeploy.runs.journal import Race

from .fitness import Fitness, Outcome, joined

__all__ = ["RaceResult", "cuts_of", "is_beaten", "race"]

Score = Callable[[Sequence[int], int], Sequence[Outcome]]


@dataclass(frozen=True)
class RaceResult:
    """Result of a race, by index of the candidates.

    Fitness is measured on the images that a candidate has seen; for survivors it is the same as without a race. The
    ranking lists survivors by fitness, ties by index, then dropped candidates, those that saw more images first. `back`
    lists dropped candidates that came back, for good or for some parts; `level` is alpha, the probability of one false
    finding.
    """

    fitness: tuple[Fitness, ...]
    images: tuple[int, ...]
    total: int
    ranking: tuple[int, ...]
    dropped: tuple[int, ...]
    back: tuple[int, ...]
    level: float

    @property
    def share(self) -> float:
        """Images seen by all candidates together, relative to scoring without a race."""
        return sum(self.images) / (self.total * len(self.images))

    @property
    def facts(self) -> Race:
        """The race, as the journal records it."""
        return Race(dropped=self.dropped, back=self.back, images=self.images, share=self.share, level=self.level)


def cuts_of(images: int, share: float) -> list[int]:
    """Return the image counts at which a set is cut for a race, one after each `share`; none if `share` is 0."""
    if not share:
        return []
    size = round(images * share)
    if size < 1:
        raise InputError(f"{share} of {images} images is less than one", where="search.evaluation.racing.share")
    # A last part of less than half the size is not worth a stage of its own.
    return list(range(size, images - size // 2, size))


def race(score: Score, candidates: int, sizes: Sequence[int], parents: int, error: float) -> RaceResult:
    """Rank candidates, fully scoring only those that may become parents, the first of the ranking.

    `score` gets indices of candidates and the number of a part, whose images are in random order. With probability
    `error` at most, in the sense above, other parents are selected than without a race.
    """
    if not 1 <= parents <= candidates:
        raise InputError(f"{parents} parents of {candidates} candidates", hint="at least 1, at most all")
    if not 0 < error < 1:
        raise InputError(
            f"expected an error probability between 0 and 1, got {error}", where="search.evaluation.racing.error"
        )
    contest = _Contest(score, candidates, sizes, parents, error)
    contest.run()
    return contest.result()


def is_beaten(lead: float, squares: float, largest: float, unseen: float, z: float) -> bool:
    """Return whether one candidate is found to score lower than another on the whole set.

    `lead` is the sum over images of the other's contribution less this one's, `squares` the sum of the squares of these
    differences and `largest` the largest square; `unseen` is the share of the set not seen yet, and `z` the normal
    quantile at the chosen level.
    """
    return lead > z * ((squares + 2 * largest) * unseen) ** 0.5


class _Contest:
    def __init__(self, score: Score, candidates: int, sizes: Sequence[int], parents: int, error: float) -> None:
        self.score = score
        self.sizes = sizes
        self.total = sum(sizes)
        self.parents = parents
        findings = sum((parents + j - 1) / j for j in range(1, candidates - parents + 1))
        # Without stages or rivals no candidate is ever beaten.
        self.level = error / max(findings * (len(sizes) - 1), 1)
        self.z = -NormalDist().inv_cdf(self.level)
        self.parts: list[list[Outcome]] = [[] for _ in range(candidates)]
        self.outcomes: dict[int, Outcome] = {}
        self.back: set[int] = set()

    def run(self) -> None:
        alive = list(range(len(self.parts)))
        for part in range(len(self.sizes)):
            self._see(alive, part)
            if part + 1 < len(self.sizes):
                last = self._by_fitness(alive)[self.parents - 1]
                alive = [index for index in alive if not self._beaten(index, last)]
        out = [index for index in range(len(self.parts)) if index not in alive]
        while True:
            last = self._by_fitness(alive)[self.parents - 1]
            back = [index for index in out if not self._beaten(index, last)]
            if not back:
                return
            # Group the candidates that see the same part next, so that ranks can divide them.
            for part, group in itertools.groupby(sorted(back, key=self._seen), key=self._seen):
                self._see(list(group), part)
            self.back.update(back)
            # In order of the indices, which break ties.
            alive = sorted([*alive, *(index for index in back if self._seen(index) == len(self.sizes))])
            out = [index for index in out if index not in alive]

    def result(self) -> RaceResult:
        everyone = range(len(self.parts))
        images = [len(self.outcomes[index]) for index in everyone]
        ranking = sorted(self._by_fitness(everyone), key=lambda index: -images[index])
        return RaceResult(
            fitness=tuple(self.outcomes[index].fitness for index in everyone),
            images=tuple(images),
            total=self.total,
            ranking=tuple(ranking),
            dropped=tuple(index for index in everyone if images[index] < self.total),
            back=tuple(sorted(self.back)),
            level=self.level,
        )

    def _see(self, indices: Sequence[int], part: int) -> None:
        if not indices:
            return
        for index, outcome in zip(indices, self.score(indices, part), strict=True):
            self.parts[index].append(outcome)
            self.outcomes[index] = joined(self.parts[index])

    def _seen(self, index: int) -> int:
        return len(self.parts[index])

    def _by_fitness(self, indices: Sequence[int]) -> list[int]:
        return sorted(indices, key=lambda index: self.outcomes[index].fitness, reverse=True)

    def _beaten(self, index: int, by: int) -> bool:
        """Return whether `by` has the higher score on the images that both have seen."""
        mine, theirs = self.outcomes[index], self.outcomes[by]
        seen = min(len(mine), len(theirs))
        lead = theirs.first(seen).contributions - mine.first(seen).contributions
        squares = lead**2
        return is_beaten(float(lead.sum()), float(squares.sum()), float(squares.max()), 1 - seen / self.total, self.z)
