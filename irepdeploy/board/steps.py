"""Steps of a check, each run in a separate process with a time limit, so that a crash or hang affects only that step.

The last line of a step's stdout is its finding as JSON: ``{"status": ..., "said": ..., "figures": ...}``. If it is
something else, the exit code of the program decides.
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
# Time to wait for output after a kill. A process blocked in a driver cannot be killed, and one that left the process
# group is not; either keeps its pipes open.
_GRACE_S = 5.0


@dataclass(frozen=True)
class Finding:
    """The outcome of a step.

    Attributes:
        name: Name of the step.
        status: OK, FAILED, SKIPPED, LATE (the step exceeded its time limit and was terminated) or NOT_RUN.
        said: The result or the reason, as one line.
        seconds: Duration of the step.
        figures: Measured values by name.
        output: The stdout of the step.
        errors: The stderr of the step.
    """

    name: str
    status: str
    said: str = ""
    seconds: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)
    output: str = field(default="", repr=False)
    errors: str = field(default="", repr=False)

    def to_dict(self) -> Dict[str, Any]:
        """Return the finding as a JSON object, without stdout and stderr."""
        return {key: value for key, value in asdict(self).items() if key not in ("output", "errors")}


def answer(step: Callable[[], Tuple[str, Mapping[str, Any]]]) -> Dict[str, Any]:
    """Run a step in this process and return its finding as a JSON object, to be printed.

    A check must not end in a traceback, so every error becomes a status: MissingError means SKIPPED, any other error
    FAILED.

    Args:
        step: Function that returns a line of text and figures.
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
    """Run a step as a separate process until it exits or its time is up.

    On a timeout, the step and all processes of its group are killed.

    Args:
        name: Name of the step.
        command: Command line of the step.
        limit_s: Time limit in seconds.
        environment: Environment variables to add.
    """
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
        # The step itself may have exited while a process that it started keeps its output open.
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
    # Kill the whole group, because a step may have started other processes.
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _finding(name: str, code: int, output: str, errors: str, seconds: float) -> Finding:
    lines = [line for line in output.splitlines() if line.strip()]
    printed = {"output": output, "errors": errors}
    with contextlib.suppress(ValueError, TypeError, KeyError, IndexError):
        # Convert NaN and infinities to text, because a record cannot contain them.
        found = json.loads(lines[-1], parse_constant=str)
        status, said = str(found["status"]), one_line(str(found["said"]))
        if code < 0 and status == OK:
            # For example, because objects were destroyed in the wrong order.
            status, said = FAILED, f"crashed at its end (signal {-code}): {said}"
        return Finding(name, status, said, seconds, found["figures"], **printed)
    if code == 0:
        return Finding(name, OK, one_line(lines[0])[:_SHOWN] if lines else "", seconds, {}, **printed)
    why = f"crashed (signal {-code})" if code < 0 else f"exit code {code}"
    last = next((line for line in reversed([*lines, *errors.splitlines()]) if line.strip()), "")
    return Finding(name, FAILED, f"{why}: {one_line(last)[:_SHOWN]}" if last else why, seconds, {}, **printed)
