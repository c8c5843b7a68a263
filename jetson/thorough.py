"""Thorough check of a board on a small network: from the driver to engines, power and the DLA.

Every step ends in a finding, even if it fails; a step that hangs is stopped on the board.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from irepdeploy.board.steps import FAILED, OK, SKIPPED, Finding
from irepdeploy.errors import CheckFailed, IrepdeployError, MissingError, one_line
from irepdeploy.onnx_graph.sample_model import sample_model
from irepdeploy.runs.record import Record

from .measure import Settings, measure_on
from .models import Model, Variant
from .outcome import Outcome
from .reference import Reference, reference_of
from .remote_agent import RemoteAgent

__all__ = ["check_thoroughly", "failure", "step_rows"]

_BUILD_S = 300.0
_SECONDS = 1.0


def check_thoroughly(agent: RemoteAgent, facts: Mapping[str, Any]) -> tuple[list[Finding], list[Record]]:
    """Check a board with the `facts` of ``check``; return a finding per step, and the records of measurements."""
    model = Model("sample", "sample.onnx", sample_model(), "fp32")
    reference = reference_of(model)
    found = [_of_board(each) for each in agent.ask("steps").get("steps", [])]
    records: list[Record] = []
    for name, precision, settings in _benches(facts):
        began = time.monotonic()
        status, said, outcome = _benched(agent, model, reference, precision, settings)
        found.append(Finding(name, status, said, round(time.monotonic() - began, 1)))
        records += outcome.records
    return found, records


def step_rows(found: Sequence[Finding]) -> list[list[str]]:
    """Return the cells of a table: step, status, seconds, finding."""
    return [[each.name, each.status, f"{each.seconds:.1f}", each.said] for each in found]


def failure(host: str, found: Sequence[Finding]) -> CheckFailed | None:
    """Return the error for a board on which a step failed, else None."""
    names = [each.name for each in found if each.status == FAILED]
    return CheckFailed(f"failed: {', '.join(names)}", where=host) if names else None


def _of_board(value: Any) -> Finding:
    given = value if isinstance(value, dict) else {}
    number, figures = given.get("seconds"), given.get("figures")
    return Finding(
        one_line(str(given.get("name"))),
        one_line(str(given.get("status"))),
        one_line(str(given.get("said"))),
        float(number) if isinstance(number, int | float) else 0.0,
        figures if isinstance(figures, dict) else {},
    )


def _benches(facts: Mapping[str, Any]) -> list[tuple[str, str, Settings]]:
    """Return the name, precision and settings of each step that the board's hardware and software allow."""
    runners, lacks = facts.get("runners") or [], {each.get("for") for each in facts.get("missing") or []}
    plain = Settings(seconds=_SECONDS, build_timeout_s=_BUILD_S)
    engine = replace(plain, power="power" not in lacks, via=None if "trtexec" in lacks else "trtexec")
    benches = []
    if "trt" in runners:
        benches += [("engine fp32", "fp32", engine), ("engine fp16", "fp16", plain)]
        cores = facts.get("dla_cores")
        for core in range(cores if isinstance(cores, int) else 0):
            benches.append((f"engine fp16, DLA core {core}", "fp16", replace(plain, dla=core)))
    if "ort-cpu" in runners:
        benches.append(("ONNX Runtime on the CPU", "fp32", replace(plain, runner="ort-cpu")))
    return benches


def _benched(
    agent: RemoteAgent, model: Model, reference: Reference, precision: str, settings: Settings
) -> tuple[str, str, Outcome]:
    variants = [Variant(model.label, model, precision)]
    outcome = Outcome(agent.host)
    try:
        outcome = measure_on(agent, variants, {model.sha256: reference}, settings, None)
    except MissingError as error:
        return SKIPPED, error.line, outcome
    except IrepdeployError as error:
        return FAILED, error.line, outcome
    if outcome.errors:
        return FAILED, "; ".join(error.line for error in outcome.errors), outcome
    said = [part for row in outcome.rows for part in _parts(row)]
    said += [part for record in outcome.records[:1] for part in _of_runner(record)]
    return OK, ", ".join(dict.fromkeys(said)), outcome


def _parts(row: Mapping[str, Any]) -> list[str]:
    shown: tuple[tuple[str, Callable[[Any], str]], ...] = (
        ("max_rel_error", lambda value: f"error {value:.1e}"),
        ("median_ms", lambda value: f"{row['runner']} {value:.3f} ms"),
        ("device_median_ms", lambda value: f"device {value:.3f} ms"),
        ("module_mw", lambda value: f"{value:.0f} mW"),
    )
    return [text(row[key]) for key, text in shown if isinstance(row.get(key), int | float)]


def _of_runner(record: Record) -> list[str]:
    runner, engine = record.runner, record.runner.get("engine") or {}
    layers, dla = engine.get("layers") or {}, engine.get("dla") or {}
    said = [f"graph {runner['cuda_graph']}"] if runner.get("cuda_graph") else []
    inputs = layers.get("convolution_inputs") or {}
    said += [f"convolutions {', '.join(f'{count} {kind}' for kind, count in inputs.items())}"] if inputs else []
    said += [f"{dla.get('dla_subgraphs')} on the DLA, {dla.get('gpu_layers')} on the GPU"] if dla else []
    said += [f"clocks {record.conditions['clocks']}"] if record.conditions.get("clocks") else []
    return said
