"""Run a bench on the board: build, check and measure models, then restore the settings of the board."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from irepdeploy.board.board_files import BoardFiles
from irepdeploy.board.failure import named
from irepdeploy.board.nvpmodel import current_mode
from irepdeploy.board.system import system_block
from irepdeploy.errors import IrepdeployError, RunError

from .bench_request import BenchModel, BenchRequest
from .board import board_facts, board_state
from .board_trtexec import run_trtexec
from .cache import AgentCache, as_ours
from .energy import energy
from .engine_build import EngineBuild
from .events import EventStream
from .fitness import Switch, fit, switch_for
from .guard import Guard, restore_left
from .overseer import Overseer
from .sampler import Sampler

__all__ = ["Bench"]

_LIBRARIES = ("numpy", "onnxruntime", "tensorrt")


class Bench:
    """One run of a bench."""

    def __init__(
        self,
        request: BenchRequest,
        *,
        files: BoardFiles,
        cache: AgentCache,
        events: EventStream,
        overseer: Overseer,
        command: list[str],
        libraries: dict[str, Any],
    ) -> None:
        self._request, self._files, self._cache = request, files, cache
        self._events, self._overseer, self._command = events, overseer, command
        self._libraries = libraries
        self._sampler = Sampler(files)
        overseer.on_tick = self._sampler.tick
        self._spans: dict[Any, list[float]] = {}

    def run(self) -> dict[str, Any]:
        """Run the bench and return the result that the desk reads.

        Raises:
            MissingError: Something that the runner, power measurement or switching needs is missing.
            InputError: The request does not fit the board.
            RunError: The run was stopped, or another one is in progress. All settings have been restored.
            KeyboardInterrupt: The user stopped the run. All settings have been restored.
        """
        with self._overseer.watching(), self._cache.lock():
            board = board_facts(self._files, self._libraries, self._cache.root)
            fit(self._request, board, self._cache)
            switch = switch_for(self._request, board, self._files)
            if board["jetson"] and not switch.pin:
                self._events.log("clocks are left to the governor: latencies will vary", level="warning")
            with self._cache.job(keep=self._request.build_only) as job:
                with self._switched(switch) as changes:
                    result = self._work(job)
                return {"board": board, **result, **changes}

    @contextlib.contextmanager
    def _switched(self, switch: Switch) -> Iterator[dict[str, list[str]]]:
        """Set power mode and clocks for the block; yield the settings made and, at the end, those restored."""
        changes: dict[str, list[str]] = {"switched": [], "restored": []}
        if switch.mode is None and not switch.pin:
            yield changes
            return
        self._events.progress("switch", "setting power mode and clocks")
        guard = Guard([*self._command, "_guard"])
        try:
            changes["switched"] = guard.switch(switch.mode, pin=switch.pin)
            self._sampler.watch_clocks()
            yield changes
        finally:
            self._events.progress("restore", "restoring power mode and clocks")
            restored = guard.restore()
            changes["restored"] = restore_left(self._files, self._cache) if restored is None else restored
            for text in changes["restored"]:
                self._events.log(f"restored: {text}", level="error" if text.startswith("FAILED") else "info")

    def _work(self, job: str) -> dict[str, Any]:
        created = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        entries: list[dict[str, Any]] = [
            {"key": str(index), "model": model} for index, model in enumerate(self._request.models)
        ]

        def time_by_trtexec(entry: dict[str, Any]) -> None:
            entry["trtexec"] = run_trtexec(
                str(self._files.program("trtexec")),
                str(self._libraries["tensorrt"]),
                entry["path"],
                entry["model"],
                self._request,
                folder=job,
                events=self._events,
                overseer=self._overseer,
            )

        self._prepare(job, entries)
        system = self._system()
        measured = self._measure(job, [entry for entry in entries if "error" not in entry])
        for entry in entries:
            entry.update(measured["models"].get(entry["key"], {}))
            if "error" in entry and "engine" in entry:
                # Do not keep an engine that failed its gate.
                for name in entry["engine"].pop("files"):
                    os.unlink(os.path.join(job, name))
            if self._request.via and "samples_ns" in entry:
                self._attempt(entry, time_by_trtexec)
        return {
            "job": os.path.basename(job),
            "created": created,
            "system": system,
            "system_after": self._system_after(),
            "protocol_version": measured["protocol_version"],
            "conditions": self._conditions(entries, measured["order"]),
            "models": [self._model_result(entry) for entry in entries],
        }

    def _prepare(self, job: str, entries: list[dict[str, Any]]) -> None:
        """Set the path of each entry, either to the engine built from its model or to the model itself."""
        if self._request.runner != "trt":
            for entry in entries:
                entry["path"] = self._cache.file(entry["model"].sha256)
            return
        builder = EngineBuild(
            job,
            self._request,
            command=self._command,
            events=self._events,
            overseer=self._overseer,
            timing_cache=self._timing_cache(),
        )

        def build(entry: dict[str, Any]) -> None:
            onnx = self._cache.file(entry["model"].sha256)
            built = builder.build(entry["model"], onnx, f"model{entry['key']}")
            entry.update(path=built.path, engine=built.facts)

        for entry in entries:
            self._attempt(entry, build)

    def _attempt(self, entry: dict[str, Any], call: Callable[[dict[str, Any]], None]) -> None:
        """Call a function for one model; an error becomes the result of that model."""
        try:
            call(entry)
        except IrepdeployError as error:
            # The error may be a consequence of the run being stopped.
            self._overseer.check()
            entry["error"] = named(error)

    def _timing_cache(self) -> Path:
        # Tactics are timed at the clocks of the power mode, so each mode has its own cache.
        mode = current_mode(self._files)
        compute = self._libraries["cuda"].get("compute_capability", "unknown")
        parts = [str(self._libraries["tensorrt"]), str(compute), "no-mode" if mode is None else f"mode{mode.id}"]
        return Path(self._cache.folder("timing"), "-".join(parts) + ".cache")

    def _measure(self, job: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
        if not entries:
            return {"models": {}, "protocol_version": None, "order": None}
        request = self._request
        order = {
            "models": [self._order(entry) for entry in entries],
            "measure": not request.build_only,
            "runner": request.runner,
            "threads": request.threads,
            "seed": request.seed,
            "limits": request.limits(),
            "power_s": request.power,
        }
        with as_ours(job):
            Path(job, "measure.json").write_text(json.dumps(order), encoding="utf-8")
        code, _ = self._overseer.run([*self._command, "_measure", job], job, self._on_measuring)
        self._sampler.stop()
        try:
            return dict(json.loads(Path(job, "measured.json").read_bytes()))
        except (OSError, ValueError):
            lines = Path(job, "stderr").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            for line in lines[-20:]:
                self._events.log(line, level="error")
            how = f"crashed (signal {-code})" if code < 0 else f"failed: {lines[-1] if lines else f'exit code {code}'}"
            raise RunError(f"the measuring process {how[:300]}", hint="its last lines are in the log") from None

    def _order(self, entry: dict[str, Any]) -> dict[str, Any]:
        model: BenchModel = entry["model"]
        gate = None
        if model.gate is not None:
            paths = {name: self._cache.file(model.gate[name]) for name in ("inputs", "expected")}
            gate = {**paths, "tolerance": model.gate["tolerance"]}
        return {
            "key": entry["key"],
            "label": model.label,
            "path": entry["path"],
            "precision": model.precision,
            "batch": model.batch,
            "profiles": model.profiles,
            "limits": model.limits,
            "gate": gate,
        }

    def _on_measuring(self, line: str) -> None:
        try:
            event = json.loads(line)
            kind = event.pop("event")
        except (ValueError, KeyError, AttributeError):
            return
        if kind == "progress":
            self._events.progress(event["stage"], event["step"], model=event["model"], share=event["share"])
        if kind != "phase":
            return
        self._sampler.start(dense=event["begins"] and event["name"] in ("idle", "power"))
        self._spans.setdefault((event["name"], event["model"]), []).append(event["time_s"])

    def _power(self, entry: dict[str, Any]) -> dict[str, Any]:
        steady, span = entry.get("steady"), self._spans.get(("power", entry["key"]), [])
        if steady is None or len(span) != 2:
            return {}
        idle = self._spans.get(("idle", None), [0.0, 0.0])
        return energy(self._sampler.between(*span), self._sampler.between(*idle), **steady)

    def _system(self) -> dict[str, Any]:
        system = system_block()
        versions = {name: self._libraries[name] or "none" for name in _LIBRARIES}
        return {
            **system,
            "versions": {**system["versions"], **versions},
            "cuda": self._libraries["cuda"],
            "board": board_state(self._files),
        }

    def _system_after(self) -> dict[str, Any]:
        throttled = self._sampler.throttled()
        if throttled is not None:
            self._events.log(f"throttled: {throttled}", level="warning")
        return {**board_state(self._files), "throttled": throttled, "samples": self._sampler.to_list()}

    def _conditions(self, entries: list[dict[str, Any]], order: str | None) -> dict[str, Any]:
        mode = current_mode(self._files)
        return {
            "seed": self._request.seed,
            "order": order,
            "interleaved_with": [entry["model"].label for entry in entries if "samples_ns" in entry],
            "input": "standard normal, whole numbers within their limits",
            **self._request.limits(),
            "power_mode": None if mode is None else mode._asdict(),
            "clocks": "as they were" if self._sampler.pinned_gpu_hz is None else "held",
        }

    def _model_result(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return the result of one model in the form that the desk reads."""
        model = entry["model"]
        result = {"label": model.label, "precision": model.precision, "dla": model.dla}
        result.update(ok="error" not in entry, gate=entry.get("gate"), engine=entry.get("engine"))
        if "error" in entry:
            return {**result, "error": entry["error"]}
        names = ("runner", "batch", "input_shape", "samples_ns", "device_samples_ns", "warmup")
        result.update({name: entry[name] for name in names if name in entry})
        return {**result, "power": self._power(entry), "trtexec": entry.get("trtexec")}
