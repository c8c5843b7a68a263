"""Build a TensorRT engine from ONNX in a child process, so that a crash or hang of the builder is an ordinary error.

The engine is written atomically, with a sidecar file that describes it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from irepdeploy.board.engine_builder import EngineOptions
from irepdeploy.board.engine_job import describe_job, job_log, job_result, job_sidecar, job_tail
from irepdeploy.board.sidecar import Sidecar, sidecar_path
from irepdeploy.board.trt_library import FLAVOURS, logged
from irepdeploy.board.trtexec import PRECISIONS
from irepdeploy.console import command_line
from irepdeploy.errors import InputError, IrepdeployError, RunError
from irepdeploy.files import move_file, move_files, read_bytes, sha256, write_bytes, write_json
from irepdeploy.folders import make_folder, output_folder, staging_folder
from irepdeploy.limits import JOURNAL
from irepdeploy.onnx_graph.model_file import model_content, open_model
from irepdeploy.onnx_graph.precision import precision_of

__all__ = ["EngineReport", "build_engine"]

WORKER = (sys.executable, "-m", "irepdeploy.board.engine_worker")
TIMEOUT_S = 3600.0

_TARGETS = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}


@dataclass(frozen=True)
class EngineReport:
    """Description of a built engine.

    Args:
        assembled: Whether TensorRT-RTX was assembled by ``make trt`` instead of installed.
        typing: "strong" or "weak".
        tf32: Whether float32 layers may round to TF32.
        seconds: Time for parsing and building.
        layers: Executed convolutions, layers by kind, bytes of weights and activations, from the build log.
        dla: Placement of its layers on the DLA; None without DLA.
        run: "not run": building does not show that the outputs are right.
    """

    engine: Path
    sidecar: Path
    flavour: str
    version: str
    assembled: bool
    precision: str
    typing: str
    tf32: bool
    sha256: str
    size_bytes: int
    seconds: float
    layers: dict[str, Any]
    device: dict[str, Any]
    timing_cache: str
    dla: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    run: str = "not run"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object with the names of the files."""
        return {**asdict(self), "engine": self.engine.name, "sidecar": self.sidecar.name}


def build_engine(
    onnx: bytes | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    flavour: str,
    timing_cache: str | os.PathLike[str] | None = None,
    command: str | None = None,
    report: Callable[[str], None] = lambda step: None,
    worker: Sequence[str] = WORKER,
    timeout_s: float = TIMEOUT_S,
    **options: Any,
) -> EngineReport:
    """Build an engine and write it with its sidecar.

    TensorRT 11 and TensorRT-RTX take the precision from the types in the ONNX; older versions make fp16 from an fp32
    ONNX by a flag. int8 always needs Q/DQ.

    Args:
        onnx: The model, or its path.
        out: Path of the engine; only the engine and its sidecar are written.
        flavour: "tensorrt", or "tensorrt_rtx", which needs no GPU.
        timing_cache: File that is read if it exists, and written after the build.
        command: Command that builds this engine again, for the sidecar.
        report: Called with each step, and after a failure with the last lines of TensorRT's log.
        worker: Command that takes the folder of a job.
        timeout_s: Time limit of the builder.
        options: Fields of `EngineOptions` except `carried`, which the model determines.

    Raises:
        InputError: The model or an option does not fit this TensorRT.
        MissingError: TensorRT, or a GPU or DLA that it needs, is not available.
        RunError: The builder crashed, hung, or ran out of memory or disk.
    """
    asked = EngineOptions(**options)
    _check(flavour, asked)
    content = model_content(onnx)
    name = "MODEL.onnx" if isinstance(onnx, bytes) else os.fspath(onnx)
    asked = replace(asked, carried=precision_of(open_model(content)))
    again = command_line("export", Path(name), "--target", _TARGETS[flavour], "--precision", asked.precision)
    engine = Path(out)
    with output_folder(engine.parent) as folder, staging_folder(folder) as staging:
        write_bytes(staging / "model.onnx", content)
        if timing_cache is not None:
            earlier = read_bytes(timing_cache, "timing cache", JOURNAL) if os.path.exists(timing_cache) else b""
            write_bytes(staging / "timing.cache", earlier)
        write_json(staging / "job.json", describe_job(flavour, asked, timing_cache=timing_cache is not None))
        result = _run(staging.absolute(), worker, timeout_s, report)
        built = staging / "model.engine"
        sidecar = job_sidecar(result, asked, sha256(content), built, command or again)
        if timing_cache is not None:
            write_bytes(timing_cache, (staging / "timing.cache").read_bytes())
        warnings = logged(job_log(staging), "WARNING")
        _publish(built, sidecar, engine)
    return EngineReport(
        engine=engine,
        sidecar=Path(sidecar_path(engine)),
        flavour=flavour,
        precision=asked.precision,
        tf32=asked.tf32,
        sha256=sidecar.engine_sha256,
        size_bytes=sidecar.size_bytes,
        timing_cache=result.get("timing_cache", "none"),
        dla=result.get("dla"),
        warnings=warnings,
        **{name: result[name] for name in ("version", "assembled", "typing", "seconds", "layers", "device")},
    )


def _check(flavour: str, asked: EngineOptions) -> None:
    if flavour not in FLAVOURS:
        raise InputError(f"no TensorRT flavour {flavour!r}", where="flavour", hint=f"one of {', '.join(FLAVOURS)}")
    if asked.precision not in PRECISIONS:
        hint = f"one of {', '.join(PRECISIONS)}"
        raise InputError(f"unknown precision {asked.precision!r}", where="--precision", hint=hint)
    if asked.workspace_bytes is not None and asked.workspace_bytes <= 0:
        raise InputError(f"expected a positive workspace size, got {asked.workspace_bytes} bytes", where="workspace")


def _run(folder: Path, worker: Sequence[str], timeout_s: float, report: Callable[[str], None]) -> dict[str, Any]:
    """Run the worker on the job in a folder, and return its result or raise its error."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    with open(folder / "stderr", "wb") as stderr:
        try:
            # Not in the user's folder, which could shadow a module.
            process = subprocess.Popen(
                [*worker, str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, cwd=folder
            )
        except OSError as error:
            raise RunError(f"cannot start the builder: {error.strerror}", where=worker[0]) from error
        timer = threading.Timer(timeout_s, end)
        timer.start()
        try:
            with process:
                for line in process.stdout or ():
                    report(line.decode(errors="replace").strip())
        finally:
            timer.cancel()
            process.kill()
            process.wait()
    try:
        return job_result(folder, process.returncode, late_s=timeout_s if late.is_set() else None)
    except IrepdeployError:
        for text in job_tail(folder):
            report(text)
        raise


def _publish(built: Path, sidecar: Sidecar, engine: Path) -> None:
    """Move both files into place, or neither. The sidecar goes last, so that it never describes another engine."""
    folder, aside = make_folder(built.parent / "new"), make_folder(built.parent / "earlier")
    named = folder / engine.name
    move_file(built, named)
    beside = write_json(folder / Path(sidecar_path(engine)).name, sidecar.to_dict())
    move_files([named, beside], engine.parent, aside)
