"""Build one engine in a separate process: ``python -m irepdeploy.board.engine_worker FOLDER``.

The process reads ``job.json``, ``model.onnx`` and, if used, ``timing.cache`` from FOLDER. It writes ``log.jsonl``
continuously, then ``model.engine``, and finally ``result.json``, and prints one line per step.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

from irepdeploy.board.cudart import device_facts
from irepdeploy.board.engine_builder import EngineOptions, build_plan
from irepdeploy.board.failure import named
from irepdeploy.board.lifetime import end_with_parent
from irepdeploy.board.trt_library import LogMessage, load_tensorrt
from irepdeploy.errors import IrepdeployError

__all__ = ["main"]


def main(folder: Path) -> None:
    """Build the engine described in the folder; an irepdeploy error is written as the result."""
    # Otherwise an abandoned build would continue for minutes.
    end_with_parent()
    # TensorRT prints to stdout by itself; reserve the original stdout for our lines.
    steps = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        result = _build(folder, steps)
    except IrepdeployError as error:
        result = {"error": named(error)}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _build(folder: Path, steps: Any) -> Dict[str, Any]:
    def report(step: str) -> None:
        print(step, file=steps, flush=True)

    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    options = EngineOptions(**job["options"])
    library = load_tensorrt(job["flavour"])
    report(f"loaded {library.title}")
    messages: List[LogMessage] = []
    cache = folder / "timing.cache"
    began = time.monotonic()
    with open(folder / "log.jsonl", "w", encoding="utf-8") as log:

        def keep(severity: str, text: str) -> None:
            log.write(json.dumps([severity, text]) + "\n")
            log.flush()

        plan, cached, facts = build_plan(
            library,
            (folder / "model.onnx").read_bytes(),
            options,
            timing_cache=cache.read_bytes() if job["timing_cache"] else None,
            messages=messages,
            keep=keep,
            report=report,
        )
    facts["seconds"] = round(time.monotonic() - began, 3)
    if cached is not None:
        cache.write_bytes(cached)
    with open(folder / "model.engine", "wb") as file:
        file.write(plan)
        file.flush()
        os.fsync(file.fileno())
    return {
        "flavour": library.flavour,
        "version": library.version,
        "assembled": library.assembled,
        "device": device_facts(),
        **facts,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
