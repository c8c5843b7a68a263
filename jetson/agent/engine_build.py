"""Build engines on the board, each in its own process, so that a crash of the builder is an ordinary error."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from irepdeploy.board.engine_builder import EngineOptions
from irepdeploy.board.engine_job import describe_job, job_log, job_result, job_sidecar, job_tail
from irepdeploy.board.trt_library import logged
from irepdeploy.errors import IrepdeployError

from .bench_request import BenchModel, BenchRequest
from .cache import as_ours
from .events import EventStream
from .overseer import Overseer

__all__ = ["BuiltEngine", "EngineBuild"]


class BuiltEngine(NamedTuple):
    """An engine in the job's folder, and the facts sent to the desk."""

    path: str
    facts: dict[str, Any]


class EngineBuild:
    """Builds the engines of one job."""

    def __init__(
        self,
        job: str,
        request: BenchRequest,
        *,
        command: list[str],
        events: EventStream,
        overseer: Overseer,
        timing_cache: Path,
    ) -> None:
        self._job, self._request, self._command = Path(job), request, command
        self._events, self._overseer, self._timing_cache = events, overseer, timing_cache

    def build(self, model: BenchModel, onnx: str, name: str) -> BuiltEngine:
        """Build one engine and write its sidecar next to it."""
        options = EngineOptions(model.precision, model.carried, profiles=model.profiles, dla_core=model.dla)
        folder = self._folder(name, onnx, options)
        result = self._run(folder, model.label)
        words = ["irepdeploy", "jetson", "bench", "BOARD", model.name, "--precision", model.precision, "--build-only"]
        command = " ".join(shlex.quote(word) for word in words)
        sidecar = job_sidecar(result, options, model.sha256, folder / "model.engine", command)
        engine = self._job / f"{name}.engine"
        with as_ours(str(self._job)):
            os.replace(folder / "model.engine", engine)
            beside = engine.with_name(f"{engine.name}.json")
            beside.write_text(json.dumps(sidecar.to_dict(), indent=2) + "\n", encoding="utf-8")
            os.replace(folder / "timing.cache", self._timing_cache)
        facts = {
            "sha256": sidecar.engine_sha256,
            "size_bytes": sidecar.size_bytes,
            "seconds": result["seconds"],
            "layers": result["layers"],
            "typing": result["typing"],
            "tensorrt": result["version"],
            "timing_cache": result.get("timing_cache", "none"),
            "dla": result.get("dla"),
            "device": result["device"],
            "warnings": logged(job_log(folder), "WARNING"),
            "files": [engine.name, beside.name],
        }
        shutil.rmtree(folder, ignore_errors=True)
        return BuiltEngine(str(engine), facts)

    def _folder(self, name: str, onnx: str, options: EngineOptions) -> Path:
        folder, cache = self._job / f"build-{name}", self._timing_cache
        with as_ours(str(self._job)):
            folder.mkdir()
            shutil.copyfile(onnx, folder / "model.onnx")
            (folder / "timing.cache").write_bytes(cache.read_bytes() if cache.exists() else b"")
            order = describe_job("tensorrt", options, timing_cache=True)
            (folder / "job.json").write_text(json.dumps(order), encoding="utf-8")
        return folder

    def _run(self, folder: Path, label: str) -> dict[str, Any]:
        step = "starting TensorRT's builder"

        def on_line(line: str) -> None:
            nonlocal step
            step = line.strip()
            tell()

        def tell() -> None:
            # Before version 10, TensorRT reports no steps, only that it is still running.
            self._events.progress("build", step, model=label, share=_share(step))

        tell()
        limit_s = self._request.build_timeout_s
        code, late = self._overseer.run(
            [*self._command, "_build", str(folder)], str(folder), on_line, progress=tell, timeout_s=limit_s
        )
        try:
            return job_result(folder, code, late_s=limit_s if late else None)
        except IrepdeployError:
            for text in job_tail(folder):
                self._events.log(text, level="error", model=label)
            raise


def _share(step: str) -> float | None:
    done, slash, total = step.partition(" ")[2].partition("/")
    if not slash or not done.isdigit() or not total.isdigit() or int(total) == 0:
        return None
    return int(done) / int(total)
