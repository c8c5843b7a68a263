"""The measuring process: check the models, time them interleaved, then run each steadily to measure power.

It does nothing else and is watched by another process. It reads ``measure.json`` in its folder, reports progress as
events on stdout, and writes ``measured.json``.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from irepdeploy.board.comparison import TOLERANCES, Comparison, compare_outputs
from irepdeploy.board.failure import named
from irepdeploy.board.feeds import check_finite, random_feeds
from irepdeploy.board.protocol import PROTOCOL_VERSION, measure
from irepdeploy.board.runner import Runner, without_graph
from irepdeploy.errors import CheckFailed, InputError, IrepdeployError, RunError, one_line

from .events import EventStream

__all__ = ["main"]

_IDLE_S = 3.0
# The power monitors average over this time, which must not include the time before the loop.
_SETTLE_S = 1.0
_PROGRESS_S = 1.0


def main(folder: str) -> None:
    """Measure as described in the folder."""
    # Libraries may print, but stdout is for events only.
    events = EventStream(os.dup(1))
    os.dup2(2, 1)
    with open(os.path.join(folder, "measure.json"), encoding="utf-8") as file:
        job = json.load(file)
    measured = _Measuring(job, events).run()
    part = os.path.join(folder, "measured.part")
    with open(part, "w", encoding="utf-8") as file:
        json.dump(measured, file)
    os.replace(part, os.path.join(folder, "measured.json"))


class _Measuring:
    def __init__(self, job: dict[str, Any], events: EventStream) -> None:
        self._job, self._events = job, events
        self._models = {model["key"]: model for model in job["models"]}
        self._found: dict[str, dict[str, Any]] = {key: {} for key in self._models}

    def run(self) -> dict[str, Any]:
        with contextlib.ExitStack() as stack:
            runners, calls = {}, {}
            for key, model in self._models.items():
                try:
                    runner = stack.enter_context(_runner(self._job, model))
                    self._gate(key, model, runner)
                    calls[key] = self._bind(key, model, runner)
                    runners[key] = runner
                except IrepdeployError as error:
                    self._found[key]["error"] = named(error)
                except MemoryError:
                    full = RunError("out of memory", where=model["label"], hint="use a smaller batch")
                    self._found[key]["error"] = named(full)
            if calls and self._job["measure"]:
                self._time(calls)
                for key, runner in runners.items():
                    # Whether a graph was captured is known only after the warm-up.
                    described = self._found[key]["runner"] = runner.describe()
                    if without_graph(described):
                        label = self._models[key]["label"]
                        self._events.log(without_graph(described), level="warning", model=label)
                if self._job["power_s"]:
                    self._steady(calls)
        return {"models": self._found, "protocol_version": PROTOCOL_VERSION, "order": "shuffled in every round"}

    def _gate(self, key: str, model: dict[str, Any], runner: Runner) -> None:
        gate = model["gate"]
        if gate is None:
            return
        self._events.progress("gate", "comparing with the desk's outputs", model=model["label"])
        verdict = _compare(gate, model, runner)
        self._found[key]["gate"] = verdict.to_dict()
        if not verdict.ok:
            raise CheckFailed(
                f"its outputs differ from the desk's: {verdict.reason}",
                where=model["label"],
                hint="it was not measured, since the latency of a wrong model is meaningless",
            )

    def _bind(self, key: str, model: dict[str, Any], runner: Runner) -> Callable[[], None]:
        shapes = {name: profile[1] for name, profile in model["profiles"].items()}
        feeds = random_feeds(
            runner.inputs,
            self._job["seed"],
            model["label"],
            batch=model["batch"],
            shapes=shapes,
            limits={name: (least, most) for name, (least, most) in model["limits"].items()},
        )
        check_finite(runner.infer(feeds), model["label"])
        # A record shows the first input that is not a scalar.
        shape = next((list(array.shape) for array in feeds.values() if array.ndim), [1])
        self._found[key].update(input_shape=shape, batch=model["batch"])
        return runner.bind(feeds)

    def _time(self, calls: dict[str, Callable[[], None]]) -> None:
        reported = [time.monotonic()]

        def on_round(share: float) -> None:
            if time.monotonic() - reported[0] > _PROGRESS_S:
                reported[0] = time.monotonic()
                self._events.progress("measure", f"{len(calls)} interleaved", share=round(share, 3))

        self._events.progress("warm-up", f"{len(calls)} models")
        self._phase("measure", True)
        measured = measure(calls, seed=self._job["seed"], on_round=on_round, **self._job["limits"])
        self._phase("measure", False)
        for key, one in measured.items():
            self._found[key].update(
                samples_ns=one.samples_ns,
                device_samples_ns=one.device_samples_ns,
                warmup={"runs": one.warmup_runs, "steady": one.steady, "cov": one.warmup_cov},
            )

    def _steady(self, calls: dict[str, Callable[[], None]]) -> None:
        """Repeat each call; the energy of one inference is the mean power divided by the rate."""
        self._events.progress("power", "idle")
        self._phase("idle", True)
        time.sleep(min(_IDLE_S, self._job["power_s"]))
        self._phase("idle", False)
        for key, call in calls.items():
            self._events.progress("power", f"steady for {self._job['power_s']:g} s", model=self._models[key]["label"])
            _repeat(call, _SETTLE_S)
            begin_s = self._phase("power", True, key)
            inferences = _repeat(call, self._job["power_s"])
            end_s = self._phase("power", False, key)
            self._found[key]["steady"] = {"inferences": inferences, "seconds": end_s - begin_s}

    def _phase(self, name: str, begins: bool, key: str | None = None) -> float:
        now = time.monotonic()
        self._events.send("phase", name=name, begins=begins, model=key, time_s=now)
        return now


def _runner(job: dict[str, Any], model: dict[str, Any]) -> Runner:
    if job["runner"] == "trt":
        from irepdeploy.board.trt_runner import TrtRunner

        return TrtRunner(model["path"], cuda_graph=True)
    from irepdeploy.board.ort_runner import OrtRunner

    return OrtRunner(model["path"], threads=job["threads"], precision=model["precision"])


def _compare(gate: dict[str, Any], model: dict[str, Any], runner: Runner) -> Comparison:
    if gate["tolerance"] not in TOLERANCES:
        raise InputError(f"unknown tolerance {gate['tolerance']!r}", where="gate", hint=f"one of {list(TOLERANCES)}")
    where, feeds, expected = f"gate of {model['label']}", _arrays(gate["inputs"]), _arrays(gate["expected"])
    runs = {len(array) for array in feeds.values()}
    if len(runs) != 1 or not min(runs):
        raise InputError(f"expected the same number of runs for each input, got {sorted(runs)}", where=where)
    parts = [runner.infer({name: array[index] for name, array in feeds.items()}) for index in range(runs.pop())]
    outputs = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
    return compare_outputs(_rows(expected, model), _rows(outputs, model), TOLERANCES[gate["tolerance"]])


def _rows(arrays: dict[str, np.ndarray], model: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return outputs (runs, batch, ...) as (runs x batch, ...), the form in which classes are compared."""
    return {
        name: array.reshape(-1, *array.shape[2:]) if array.ndim > 1 and array.shape[1] == model["batch"] else array
        for name, array in arrays.items()
    }


def _arrays(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"cannot read the arrays of the gate: {one_line(error)}", where="gate") from error


def _repeat(call: Callable[[], None], seconds: float) -> int:
    collecting = gc.isenabled()
    gc.disable()
    try:
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            call()
            count += 1
        return count
    finally:
        if collecting:
            gc.enable()
