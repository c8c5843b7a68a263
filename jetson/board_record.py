"""Records of measurements on a board, from the agent's answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from irepdeploy.parsing.validation import validated
from irepdeploy.runs.record import Record

from .models import Variant

__all__ = ["power_of", "record_of", "trtexec_record_of"]

_PLATFORM = ("jetson", "l4t", "jetpack", "kernel", "os", "numpy", "tensorrt", "trtexec", "dla_cores", "can_switch")


def record_of(
    host: str, value: dict[str, Any], model: dict[str, Any], variant: Variant, groups: Any, power: dict[str, Any]
) -> Record:
    """Return the record of one model.

    Raises:
        InputError: The agent's answer is not valid.
    """
    runner = dict(model["runner"])
    # Name of the runner on the command line.
    runner["runner"] = {"ort": "ort-cpu"}.get(str(runner["runner"]), str(runner["runner"]))
    engine = model.get("engine")
    if engine:
        runner["engine"] = {key: item for key, item in engine.items() if key != "files"}
    fields = {
        "suite": "models",
        "scenario": "single-stream",
        "model": variant.label,
        "source": "onnx, engine built on the board" if engine else "onnx",
        "artefact_sha256": variant.model.sha256,
        "runner": runner,
        "precision": variant.precision,
        "batch": int(model["batch"]),
        "input_shape": [int(size) for size in model["input_shape"]],
        "samples_ns": [int(sample) for sample in model["samples_ns"]],
        "device_samples_ns": [int(sample) for sample in model.get("device_samples_ns") or []],
        "warmup": dict(model["warmup"]),
        "protocol_version": int(value["protocol_version"]),
        "system": _system(value),
        "system_after": _system_after(value.get("system_after") or {}),
        "power": power,
        "conditions": {
            **value["conditions"],
            "host": host.rpartition("@")[2],
            "gate": _verdict(model.get("gate"), groups),
        },
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "created": str(value["created"]),
    }
    return validated(Record, fields, "a measurement", where=host)


def trtexec_record_of(host: str, value: dict[str, Any], model: dict[str, Any], variant: Variant, groups: Any) -> Record:
    """Return the record of the board's own trtexec on the same engine: latency, and compute as device time."""
    times = model["trtexec"]
    changed = {
        **model,
        "runner": {
            **(model.get("runner") or {}),
            "runner": "trtexec",
            "provider": "trtexec",
            "device": "cuda",
            "version": times.get("version"),
        },
        "samples_ns": times["latency_ns"],
        "device_samples_ns": times.get("compute_ns") or [],
        "warmup": {"runs": None, "steady": None, "cov": None},
    }
    conditions = {**value["conditions"], "order": "alone, in a process of its own", "interleaved_with": []}
    conditions["arguments"] = times.get("arguments")
    return record_of(host, {**value, "conditions": conditions}, changed, variant, groups, {})


def _system(value: dict[str, Any]) -> dict[str, Any]:
    """Return the board's system block, with the keys from which a report names a device."""
    board, system = value.get("board") or {}, dict(value["system"])
    # The state before the measurement: clocks, temperatures, rails.
    state = system.pop("board", None)
    if board.get("board"):
        system["board"] = str(board["board"])
    # The power mode during the measurement, else the board's own.
    mode = value["conditions"].get("power_mode") or board.get("power_mode")
    if mode:
        system["power_mode"] = str(mode["name"] if isinstance(mode, dict) else mode)
    system["platform"] = {key: board[key] for key in _PLATFORM if board.get(key) is not None}
    return _known({**system, "state": state})


def _system_after(after: dict[str, Any]) -> dict[str, Any]:
    """Return the state after the measurement, with the samples taken during it as one list per quantity."""
    rows = [_flat(row) for row in after.get("samples") or []]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    found = {name: column for name, column in columns.items() if any(item is not None for item in column)}
    return _known({**after, "samples": found if set(found) > {"time_s"} else None})


def _flat(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in row.items():
        flat.update(_flat(item, f"{prefix}{key} ") if isinstance(item, dict) else {f"{prefix}{key}": item})
    return flat


def _known(value: dict[str, Any]) -> dict[str, Any]:
    """Return `value` without entries that are None or empty objects."""
    inner = {key: _known(item) if isinstance(item, dict) else item for key, item in value.items()}
    return {key: item for key, item in inner.items() if item is not None and item != {}}


def power_of(power: dict[str, Any]) -> dict[str, Any]:
    """Rename keys to those of a record, such as rails to ``mean_mw``."""
    return {("mean_mw" if key == "rails_mw" else key): item for key, item in power.items()}


def _verdict(gate: dict[str, Any] | None, groups: Any) -> dict[str, Any]:
    if gate is None:
        return {"ok": None, "reason": "not asked for"}
    shown = ("ok", "samples", "max_rel_error", "tolerance", "reason")
    return {**{key: gate.get(key) for key in shown}, "reference": "ONNX Runtime, at the desk", "inputs": groups}
