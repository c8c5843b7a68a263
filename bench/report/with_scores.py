"""Accuracies of measured files, found by following digests from a file to its export and on to its training."""

from __future__ import annotations

from dataclasses import replace

from irepdeploy.errors import InputError
from irepdeploy.files import sha256
from irepdeploy.runs.record import Record
from irepdeploy.runs.schema import ACCURACY

from .gather import Gathered
from .run import Run

__all__ = ["with_scores"]


def with_scores(found: Gathered) -> list[Record]:
    """Return the records, with the test accuracy of the training from which a measured file was exported."""
    sources = {
        artefact.sha256: str(each.certificate.source.get("sha256") or "")
        for each in found.certificates
        for artefact in each.certificate.artefacts
    }
    measured = {record.artefact_sha256 for record in found.records if record.artefact_sha256}
    if not found.runs or not measured:
        return found.records
    trained = {digest: run for run in found.runs if run.tested and (digest := _digest(run))}
    return [_with_score(record, trained, sources) for record in found.records]


def _with_score(record: Record, trained: dict[str, Run], sources: dict[str, str]) -> Record:
    digest = record.artefact_sha256 or ""
    run = trained.get(digest) or trained.get(sources.get(digest, ""))
    known = "top1" in record.facts or "rows" in record.facts
    if run is None or run.score is None or run.metric != ACCURACY or known:
        return record
    score = {"top1": 100 * run.score, "top1_source": f"test set, training {run.label}"}
    return replace(record, facts={**record.facts, **score})


def _digest(run: Run) -> str:
    try:
        return sha256(run.folder / "best.pt")
    except InputError:
        return ""
