"""Racing: candidates that cannot become parents are dropped before being scored on the whole search-validation set.

Images are scored part by part, in random order. After each part, a candidate is dropped if it is *beaten* by the
candidate currently in the last rank of the parents. Once the survivors have seen all images, every dropped candidate is
compared with the final holder of that rank. Those that it does not beat come back and see further parts, until they are
beaten or have seen all images.

Error bound. Let k be the number of parents and P the number of candidates, and suppose that the parents found are not
the true ones, i.e. the k fittest on the whole set. Then j >= 1 dropped candidates are fitter than the one in the last
rank, which is therefore number k + j by true fitness, and each of the j was wrongly found to be beaten by it. This
takes j false findings among the k + j - 1 candidates fitter than number k + j, so by Markov's inequality its
probability is at most ``(k + j - 1) / j * stages * alpha``, where alpha is the probability of one false finding. Summed
over j, the parents are the true ones with probability at least ``1 - error`` if alpha is
``error / (stages * sum of (k + j - 1) / j)``.

The probability is over the order of the images, for one selection; nothing is assumed about the candidates. A finding
compares two candidates on the same images. Let x be the differences between the contributions of each image to the two
scores: a candidate is beaten if ``sum(x) > z * sqrt((sum(x^2) + 2 max(x^2)) * (1 - n / N))`` after n of N images. In
classification, sum(x) is d - b and sum(x^2) is d + b, where d images are right only for the other candidate and b only
for this one. This is the normal approximation for sampling without replacement, with the largest difference added on
either side to cover small n. Its level is alpha, which it keeps over the stages of a race; a test computes this exactly
for accuracy. For a score that is not a mean over images, contributions are first-order approximations. A candidate of
equal or higher score is never truly beaten, so ties, which the loss breaks, are safe too.
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
    lists dropped candidates that came back, whether or not they survived; `level` is alpha, the probability of one
    false finding.
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
        """Images scored, summed over all candidates, relative to scoring without a race."""
        return sum(self.images) / (self.total * len(self.images))

    @property
    def facts(self) -> Race:
        """The race as recorded in the journal."""
        return Race(dropped=self.dropped, back=self.back, images=self.images, share=self.share, level=self.level)


def cuts_of(images: int, share: float) -> list[int]:
    """Return the image counts at which a race cuts a set, one after each `share` of it; none if `share` is 0."""
    if not share:
        return []
    size = round(images * share)
    if size < 1:
        raise InputError(f"{share} of {images} images is less than one", where="search.evaluation.racing.share")
    # A last part of less than half the size is not worth a stage of its own.
    return list(range(size, images - size // 2, size))


def race(score: Score, candidates: int, sizes: Sequence[int], parents: int, error: float) -> RaceResult:
    """Rank candidates; only those that may become parents are scored on all images.

    Args:
        score: Function of candidate indices and the number of a part, whose images are in random order.
        candidates: Number of candidates.
        sizes: Number of images of each part.
        parents: Number of parents, which come first in the ranking.
        error: Bound on the probability of selecting other parents than without a race, as derived above.

    Raises:
        InputError: `parents` or `error` is out of range.
    """
    if not 1 <= parents <= candidates:
        raise InputError(f"cannot select {parents} of {candidates} candidates", hint="at least 1, at most all")
    if not 0 < error < 1:
        raise InputError(
            f"expected an error probability between 0 and 1, got {error}", where="search.evaluation.racing.error"
        )
    contest = _Contest(score, candidates, sizes, parents, error)
    contest.run()
    return contest.result()


def is_beaten(lead: float, squares: float, largest: float, unseen: float, z: float) -> bool:
    """Return whether one candidate is found to score lower than another on the whole set.

    Args:
        lead: Sum over images of the other candidate's contribution minus this one's.
        squares: Sum of the squares of these differences.
        largest: Largest of these squares.
        unseen: Share of the set that has not been seen yet.
        z: Normal quantile at the chosen level.
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
