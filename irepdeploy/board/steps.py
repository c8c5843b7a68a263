"""Steps of a check, each in a process of its own with a time limit: one that crashes or hangs costs only itself.

A step prints its finding as one line of JSON, the last of its stdout: ``{"status": ..., "said": ..., "figures": ...}``.
A program that prints something else is taken at its exit code.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

from irepdeploy.errors import IrepdeployError, MissingError, one_line

__all__ = ["FAILED", "LATE", "NOT_RUN", "OK", "SKIPPED", "Finding", "answer", "run_step"]

OK, FAILED, SKIPPED, LATE, NOT_RUN = "ok", "failed", "skipped", "out of time", "not run"
_SHOWN = 300
# A process that the kernel cannot end, since it waits for a driver, or one that left the group, keeps its pipes open.
_GRACE_S = 5.0


@dataclass(frozen=True)
class Finding:
    """The finding of a step.

    Attributes:
        status: OK, FAILED, SKIPPED, LATE (it took longer than its limit and was ended) or NOT_RUN.
        said: One line: the result, or the reason.
        output: Its stdout.
        errors: Its stderr.
    """

    name: str
    status: str
    said: str = ""
    seconds: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)
    output: str = field(default="", repr=False)
    errors: str = field(default="", repr=False)

    def to_dict(self) -> Dict[str, Any]:
        """Return a JSON object, without what was printed."""
        return {key: value for key, value in asdict(self).items() if key not in ("output", "errors")}


def answer(step: Callable[[], Tuple[str, Mapping[str, Any]]]) -> Dict[str, Any]:
    """Call a step, which returns what it says and its figures, and return the line that it prints.

    Every error becomes a status, since a check must not end in a traceback: what is missing skips the step, anything
    else fails it.
    """
    try:
        said, figures = step()
        return {"status": OK, "said": said, "figures": dict(figures)}
    except MissingError as error:
        return {"status": SKIPPED, "said": error.line, "figures": {}}
    except IrepdeployError as error:
        return {"status": FAILED, "said": error.line, "figures": {}}
    except Exception as error:  # a bug, or anything that a library raises
        return {"status": FAILED, "said": f"{type(error).__name__}: {one_line(error)}", "figures": {}}


def run_step(
    name: str, command: Sequence[str], limit_s: float, environment: Optional[Mapping[str, str]] = None
) -> Finding:
    """Run a step to its end, or until its time is over; everything that it started is ended with it."""
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=None if environment is None else {**os.environ, **environment},
        )
    except OSError as error:
        return Finding(name, FAILED, f"cannot be started: {error.strerror}")
    late = False
    try:
        printed = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        # It may have ended, and something that it started holds its output open.
        late = process.poll() is None
        _end(process)
        printed = _rest(process)
    except BaseException:
        _end(process)
        process.wait()
        raise
    seconds = round(time.monotonic() - began, 2)
    output, errors = (each.decode("utf-8", "replace") for each in printed)
    if late:
        return Finding(name, LATE, f"ended after {limit_s:.0f} s", seconds, {}, output, errors)
    return _finding(name, process.returncode, output, errors, seconds)


def _rest(process: Any) -> Tuple[bytes, bytes]:
    try:
        return process.communicate(timeout=_GRACE_S)
    except subprocess.TimeoutExpired as error:
        for pipe in (process.stdout, process.stderr):
            pipe.close()
        process.poll()
        return error.output or b"", error.stderr or b""


def _end(process: Any) -> None:
    # Its group: a step may have started processes of its own.
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _finding(name: str, code: int, output: str, errors: str, seconds: float) -> Finding:
    lines = [line for line in output.splitlines() if line.strip()]
    printed = {"output": output, "errors": errors}
    with contextlib.suppress(ValueError, TypeError, KeyError, IndexError):
        # Numbers that JSON does not have become text, as a record could not hold them.
        found = json.loads(lines[-1], parse_constant=str)
        status, said = str(found["status"]), one_line(str(found["said"]))
        if code < 0 and status == OK:
            # What it used was destroyed in a wrong order, for one.
            status, said = FAILED, f"crashed at its end (signal {-code}): {said}"
        return Finding(name, status, said, seconds, found["figures"], **printed)
    if code == 0:
        return Finding(name, OK, one_line(lines[0])[:_SHOWN] if lines else "", seconds, {}, **printed)
    why = f"crashed (signal {-code})" if code < 0 else f"exit code {code}"
    last = next((line for line in reversed([*lines, *errors.splitlines()]) if line.strip()), "")
    return Finding(name, FAILED, f"{why}: {one_line(last)[:_SHOWN]}" if last else why, seconds, {}, **printed)
