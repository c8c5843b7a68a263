"""Conditions of a suite: runners and, on a GPU, TF32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from irepdeploy.errors import InputError, choices
from irepdeploy.runs.record import Record
from irepdeploy.runs.suite import SuiteRequest

from ..subject import RUNNERS

__all__ = ["AS_IT_STANDS", "ENGINE_RUNNER", "Condition", "condition_of", "conditions_for"]

# Runners that execute batch normalization; for the others the exporter folds it.
AS_IT_STANDS = ("torch", "torch-compile", "torch-graph")
ENGINE_RUNNER = "trt"

_ON_CPU = ("torch", "ort-cpu")
_ON_GPU = ("torch", "torch-graph")
# The paper does not name its runner. Eager execution with BN kept or folded explains its numbers; it mentions TensorRT.
_PAPER_ON_GPU = ("torch", ENGINE_RUNNER)


@dataclass(frozen=True)
class Condition:
    """A column of a table.

    Attributes:
        both: Whether the table has columns for both TF32 off and on, so that the title must tell which.
    """

    runner: str
    tf32: bool = False
    both: bool = False

    @property
    def title(self) -> str:
        """The title, unique in a table."""
        return f"{self.runner}, TF32 {'on' if self.tf32 else 'off'}" if self.both else self.runner


def conditions_for(request: SuiteRequest) -> list[Condition]:
    """Return the requested conditions, or the defaults of the device; scale "paper" on a GPU has TF32 off and on."""
    paper_on_gpu = request.device == "cuda" and request.scale == "paper"
    default = _ON_CPU if request.device == "cpu" else _PAPER_ON_GPU if paper_on_gpu else _ON_GPU
    runners: Sequence[str] = list(dict.fromkeys(request.runners)) or default
    for runner in runners:
        if runner not in RUNNERS:
            raise InputError(f"unknown runner {runner!r}", where="--runner", hint=choices(runner, RUNNERS))
    states = (False, True) if paper_on_gpu else (False,)
    return [Condition(runner, tf32, paper_on_gpu) for tf32 in states for runner in runners]


def condition_of(record: Record, conditions: Sequence[Condition]) -> Condition | None:
    """Return the condition that a record was measured under."""
    tf32 = record.conditions.get("tf32") == "on"
    return next((each for each in conditions if (each.runner, each.tf32) == (record.runner["runner"], tf32)), None)
