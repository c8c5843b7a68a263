"""A comparison split into independent jobs for a cluster's scheduler, and joined again from their results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from irepdeploy.errors import InputError
from irepdeploy.files import canonical_json, sha256
from irepdeploy.recipe import Recipe
from irepdeploy.runs.comparison import SearchComparison, SearchJob

from .compare import check_names, runs_of, search_each
from .execution.ranks import Ranks

__all__ = ["JOB", "Job", "join", "run_job"]

JOB = "job.json"
_T = TypeVar("_T")
_MOST_NAMED = 5


@dataclass(frozen=True)
class Job:
    """Job `number` of `count`, counted from 1; it does every `count`-th run."""

    number: int
    count: int

    @classmethod
    def of(cls, text: str) -> Job:
        """Parse a job such as "3/20"."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        number, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= count:
            text = f"expected a job and the number of jobs, such as 3/20, got {text!r}"
            raise InputError(text, where="--job", hint="jobs are counted from 1")
        return cls(number, count)

    def share(self, runs: Sequence[_T]) -> list[_T]:
        """Return the runs of this job."""
        if self.count > len(runs):
            raise InputError(f"{self.count} jobs for {len(runs)} runs", where="--job", hint=f"at most {len(runs)} jobs")
        return list(runs[self.number - 1 :: self.count])


def run_job(
    recipe: Recipe,
    out: Path,
    strategies: Sequence[str],
    seeds: int,
    job: Job,
    *,
    ranks: Ranks,
    retrain: bool = False,
    **options: Any,
) -> SearchJob:
    """Run the share of a job in the folder `out` and write its job.json; the other arguments are those of `compare`."""
    check_names(strategies, seeds)
    named = runs_of(recipe, strategies, seeds)
    runs, metric = search_each(recipe, out, job.share(named), retrain=retrain, ranks=ranks, **options)
    # Seed and strategy are recorded with each run.
    content = recipe.model_dump(mode="json", exclude={"scales": True, "seed": True, "search": {"strategy"}})
    found = SearchJob(
        number=job.number,
        count=job.count,
        network=recipe.net.label,
        dataset=recipe.data.label,
        recipe=sha256(canonical_json(content)),
        strategies=tuple(strategies),
        seeds=tuple(range(recipe.seed, recipe.seed + seeds)),
        retrain=retrain,
        runs=runs,
        metric=metric,
    )
    if ranks.first:
        found.write(out / JOB)
    return found


def join(folders: Sequence[Path]) -> tuple[SearchComparison, SearchJob]:
    """Return the comparison made up of the jobs in `folders`, and one of the jobs.

    Raises:
        InputError: A job is missing, given twice, or belongs to another comparison.
    """
    jobs: dict[int, tuple[Path, SearchJob]] = {}
    for folder in folders:
        job = SearchJob.read(folder / JOB)
        if jobs:
            where, first = next(iter(jobs.values()))
            for key, what in _SAME.items():
                if getattr(job, key) != getattr(first, key):
                    text = f"belongs to another comparison: its {what} differs from that of {where}"
                    raise InputError(text, where=folder, hint="join the jobs of one comparison")
        if job.number in jobs:
            text = f"job {job.number}/{job.count} is given twice, also in {jobs[job.number][0]}"
            raise InputError(text, where=folder, hint="name each folder once")
        jobs[job.number] = folder, job
    first = next(iter(jobs.values()))[1]
    missing = [number for number in range(1, first.count + 1) if number not in jobs]
    if missing:
        named = ", ".join(map(str, missing[:_MOST_NAMED])) + (", ..." if len(missing) > _MOST_NAMED else "")
        raise InputError(
            f"{len(missing)} of {first.count} jobs {'is' if len(missing) == 1 else 'are'} missing: {named}",
            where="--join",
            hint=f"run --job {missing[0]}/{first.count} and pass its folder too",
        )
    found = {(run.strategy, run.seed): run for _, job in jobs.values() for run in job.runs}
    order = [(name, seed) for name in first.strategies for seed in first.seeds]
    runs = tuple(found[each] for each in order if each in found)
    return SearchComparison(strategies=first.strategies, seeds=first.seeds, runs=runs, metric=first.metric), first


_SAME = {
    "recipe": "recipe",
    "strategies": "strategies",
    "seeds": "seeds",
    "retrain": "choice of --retrain",
    "count": "number of jobs",
    "metric": "metric",
}
