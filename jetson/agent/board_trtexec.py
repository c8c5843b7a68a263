"""Run the board's own trtexec on an engine as a second, independent measurement."""

from __future__ import annotations

import os
from typing import Any

from irepdeploy.board.trtexec import arguments, read_times
from irepdeploy.errors import RunError

from .bench_request import BenchModel, BenchRequest
from .events import EventStream
from .overseer import Overseer

__all__ = ["run_trtexec"]

_LIMIT_S = 600.0
_SHOWN = 20


def run_trtexec(
    program: str,
    version: str,
    engine: str,
    model: BenchModel,
    request: BenchRequest,
    *,
    folder: str,
    events: EventStream,
    overseer: Overseer,
) -> dict[str, Any]:
    """Run trtexec and return the times of every query in nanoseconds, and its arguments."""
    times = os.path.join(folder, f"{os.path.basename(engine)}.times.json")
    words = arguments(
        version,
        engine,
        times=times,
        seconds=max(1.0, request.min_seconds),
        dla=model.dla,
        shapes={name: tuple(profile[1]) for name, profile in model.profiles.items()} or None,
    )
    events.progress("trtexec", "the board's own trtexec", model=model.label)
    said: list[str] = []
    code, late = overseer.run([program, *words], folder, said.append, timeout_s=_LIMIT_S)
    if code or late:
        for text in said[-_SHOWN:]:
            events.log(text, level="error", model=model.label)
        last = next((text for text in reversed(said) if "[E]" in text), f"exit code {code}")
        raise RunError(f"trtexec failed: {' '.join(last.split())[:300]}", where=model.label)
    shown = [word.replace(folder + os.sep, "") for word in words]
    return {**read_times(times)._asdict(), "version": version, "arguments": shown}
