"""User's models in a latency table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from irepdeploy.console import log
from irepdeploy.errors import InputError
from irepdeploy.runs.result import TrainingResult

from ..subject import RUNNERS, Subject, find_subjects
from .condition import Condition
from .latency_row import LatencyRow, Measured, Taken

__all__ = ["own_models", "own_rows"]


def own_models(models: Sequence[str], runners: Sequence[str]) -> list[Subject]:
    """Return each model with every runner that takes it."""
    found: list[Subject] = []
    for model in models:
        kind = find_subjects([model])[0].kind
        fitting = [runner for runner in runners if kind in RUNNERS[runner]]
        if not fitting:
            takers = [runner for runner, kinds in RUNNERS.items() if kind in kinds]
            raise InputError(f"{' and '.join(runners)} cannot run it", where=model, hint=f"--runner {takers[0]}")
        for subject in find_subjects([model], fitting):
            found.append(_with_accuracy(subject))
    return found


def _with_accuracy(subject: Subject) -> Subject:
    """Add the test accuracy from the result.json next to a checkpoint."""
    result = Path(subject.target).with_name("result.json")
    if Path(subject.target).name != "best.pt" or not result.is_file():
        return subject
    try:
        found = TrainingResult.read(result)
    except InputError as error:
        log(f"no accuracy for {subject.label}: {error.line}")
        return subject
    if found.test_accuracy is None or found.metric is not None:
        return subject
    facts = {
        **subject.facts,
        "top1": 100 * found.test_accuracy,
        "top1_source": f"its training's test set ({result.name})",
    }
    return dataclasses.replace(subject, facts=facts)


def own_rows(own: Sequence[Subject], taken: Taken, conditions: Sequence[Condition], home: str) -> list[LatencyRow]:
    """Return a row for each model, compared with the table's reference."""
    rows = []
    for subject in {subject.label: subject for subject in own}.values():
        found = {
            each.title: taken[subject.label, each.title] for each in conditions if (subject.label, each.title) in taken
        }
        rows.append(
            LatencyRow(
                label=subject.label,
                family="yours",
                top1=subject.facts.get("top1"),
                top1_source=subject.facts.get("top1_source", ""),
                measured={title: Measured.of(record, taken.get((home, title))) for title, record in found.items()},
            )
        )
    return rows
