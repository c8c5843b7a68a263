"""Records of fictitious measurements."""

from __future__ import annotations

from typing import Any

from irepdeploy.runs.record import Record

__all__ = ["make_record"]


def make_record(model: str = "net", **changes: Any) -> Record:
    """Make a record of a model on one CPU thread with 64 samples of 1 ms; `changes` replace fields."""
    values: dict[str, Any] = {
        "suite": "models",
        "scenario": "single-stream",
        "source": "onnx",
        "artefact_sha256": None,
        "runner": {"runner": "ort-cpu", "device": "cpu", "threads": 1, "transfers": "none"},
        "precision": "fp32",
        "batch": 1,
        "input_shape": [1, 3, 32, 32],
        "samples_ns": [1_000_000] * 64,
        "warmup": {"steady": True},
        "protocol_version": 1,
        "system": {},
        "conditions": {},
        "argv": [],
        "created": "2026-01-02T03:04:05+00:00",
    }
    return Record(model=model, **{**values, **changes})
