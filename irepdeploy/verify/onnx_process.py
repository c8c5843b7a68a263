"""Run ONNX models in a separate process, which may crash and is ended if a model runs for too long.

with time_limit(60), OnnxProcessRunner("model.onnx", threads=2) as runner:
    logits = runner.infer({"input": images})["logits"]
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

from irepdeploy.board.failure import from_named
from irepdeploy.board.runner import Runner, TensorSpec
from irepdeploy.errors import InputError, IrepdeployError, ModelError, RunError, one_line
from irepdeploy.verify.array_message import ArrayMessage, BrokenMessageError

__all__ = ["TIMEOUT_S", "OnnxProcess", "OnnxProcessRunner", "check_limit", "start_onnx_process", "time_limit"]

TIMEOUT_S = 300.0
# Without -P, the current folder could shadow a module.
WORKER = (sys.executable, "-P", "-m", "irepdeploy.verify.onnx_worker")
_STARTING_S = 300.0
_CLOSING_S = 60.0

_limit_s: ContextVar[float] = ContextVar("limit_s", default=TIMEOUT_S)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit the time in seconds that ONNX Runtime may take to load and run each model opened in the block."""
    check_limit(seconds)
    token = _limit_s.set(seconds)
    try:
        yield
    finally:
        _limit_s.reset(token)


def check_limit(seconds: float) -> None:
    """Raise InputError unless `seconds` is valid for `time_limit`."""
    if not 0 < seconds <= _LONGEST_S:
        what = f"expected a positive number of seconds, at most {_LONGEST_S:,}, got {seconds:g}"
        raise InputError(what, where="--timeout")


class OnnxProcess:
    """A child process that serves any number of models and ends with this process; see `onnx_worker`."""

    def __init__(self, worker: Sequence[str] = WORKER) -> None:
        self._connection, theirs = socket.socketpair()
        descriptor = theirs.fileno()
        nowhere = subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                [*worker, str(descriptor)], stdin=nowhere, stdout=nowhere, stderr=nowhere, pass_fds=[descriptor]
            )
        except OSError as error:
            self._connection.close()
            raise RunError(f"cannot start ONNX Runtime's process: {error.strerror}", where=worker[0]) from error
        finally:
            theirs.close()
        self._lock = threading.Lock()
        self._started = False

    @property
    def pid(self) -> int:
        """Process ID."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def wait_until_started(self) -> None:
        """Wait until the process has finished its imports, so that they do not count towards a model's time."""
        with self._lock:
            if not self._started:
                try:
                    ArrayMessage.receive(self._connection, time.monotonic() + _STARTING_S)
                except (BrokenMessageError, OSError) as error:
                    self.end()
                    hint = "irepdeploy doctor"
                    raise RunError("ONNX Runtime's process does not start", where=WORKER[0], hint=hint) from error
                self._started = True

    def ask(self, message: ArrayMessage, seconds: float) -> ArrayMessage:
        """Send a message and return the answer, or raise the error that the answer contains.

        Raises:
            ModelError: The process crashed.
            RunError: The process was killed.
            TimeoutError: The process took longer than `seconds`, and was ended.
        """
        with self._lock:
            if self.ended:
                raise RunError("another model has ended ONNX Runtime's process")
            try:
                deadline = time.monotonic() + seconds
                message.send(self._connection, deadline)
                answer = ArrayMessage.receive(self._connection, deadline)
            except (BrokenMessageError, ConnectionError) as error:
                raise self._death(error) from None
            except BaseException:
                # After a timeout or an interrupt, an answer may still be under way.
                self.end()
                raise
        if "bug" in answer.values:
            raise RuntimeError(answer.values["bug"])
        if "error" in answer.values:
            raise from_named(answer.values["error"])
        return answer

    def end(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def leave(self) -> None:
        """Forget the process in a forked child, since it belongs to the parent of the child."""
        self._connection.close()
        self._process.returncode = 0

    def _death(self, error: Exception) -> IrepdeployError:
        try:
            # The process has closed the connection, so it is about to end.
            code = self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            code = 0
        self.end()
        if code == -signal.SIGKILL:
            return RunError("ONNX Runtime was killed while it ran this model, probably for using too much memory")
        if code < 0:
            return ModelError(f"ONNX Runtime crashed (signal {-code}) on this model")
        return ModelError(f"ONNX Runtime's process failed on this model: {one_line(error)}")


# A socket rejects timeouts of centuries.
_LONGEST_S = 10_000_000
_current: OnnxProcess | None = None
_numbers = itertools.count()


def start_onnx_process() -> OnnxProcess:
    """Return the child process shared by all models of this process, and start it if it is not running.

    If this is called early, the imports of the child run in parallel to those of the caller.
    """
    global _current
    if _current is None or _current.ended:
        if _current is not None:
            _current.end()
        _current = OnnxProcess()
    return _current


def _end() -> None:
    if _current is not None:
        _current.end()


def _leave() -> None:
    global _current
    if _current is not None:
        _current.leave()
    _current = None


atexit.register(_end)
os.register_at_fork(after_in_child=_leave)


class OnnxProcessRunner(Runner):
    """An `OrtRunner` in another process, with bit-identical outputs.

    Args:
        model: Path of an ONNX file, or the bytes of a model without external data.
        settings: Arguments of `OrtRunner`.

    Raises:
        ModelError: As for `OrtRunner`; also if the model crashes ONNX Runtime.
        RunError: Loading and all runs together exceed the `time_limit`, or ONNX Runtime is out of memory.
    """

    name = "ort"

    def __init__(self, model: str | os.PathLike[str] | bytes, **settings: Any) -> None:
        super().__init__()
        self._model = model if isinstance(model, bytes) else os.fspath(model)
        self._where = None if isinstance(model, bytes) else os.fspath(model)
        self._settings = settings
        self._limit_s = self._left_s = _limit_s.get()
        self._process: OnnxProcess | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """The model's ``metadata_props``."""
        self._need_active()
        return dict(self._about["metadata"])

    @property
    def dimensions(self) -> dict[str, dict[str, list[int | str | None]]]:
        """Sizes of inputs and outputs; see `OrtRunner.dimensions`."""
        self._need_active()
        return dict(self._about["dimensions"])

    def _activate(self) -> None:
        self._process, self._number = start_onnx_process(), next(_numbers)
        self._process.wait_until_started()
        path = None if isinstance(self._model, bytes) else os.path.abspath(self._model)
        arrays = {"model": np.frombuffer(self._model, np.uint8)} if isinstance(self._model, bytes) else {}
        self._about = self._ask({"verb": "open", "path": path, "settings": self._settings}, arrays).values
        self._inputs = [TensorSpec(name, tuple(shape), dtype) for name, shape, dtype in self._about["inputs"]]
        self._outputs = list(self._about["outputs"])

    def _infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(self._ask({"verb": "run"}, feeds).arrays)

    def _deactivate(self) -> None:
        if self._process is not None and not self._process.ended:
            with contextlib.suppress(IrepdeployError, TimeoutError):
                self._process.ask(ArrayMessage({"verb": "close", "number": self._number}), _CLOSING_S)

    def _describe(self) -> dict[str, Any]:
        return {key: value for key, value in self._about["described"].items() if key != "runner"}

    def _ask(self, values: dict[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> ArrayMessage:
        assert self._process is not None
        message = ArrayMessage({**values, "number": self._number}, arrays or {})
        began = time.monotonic()
        try:
            return self._process.ask(message, self._left_s)
        except TimeoutError:
            what = f"ONNX Runtime took longer than {self._limit_s:g} s to load and run this model, and was ended"
            raise RunError(what, where=self._where, hint="--timeout SECONDS allows more") from None
        except IrepdeployError as error:
            raise type(error)(error.what, where=self._named(error.where), hint=error.hint) from error
        finally:
            self._left_s -= time.monotonic() - began

    def _named(self, where: str | None) -> str | None:
        """Return the path as the caller gave it; errors of the process name the absolute path."""
        return self._where if where is None or where == os.path.abspath(self._where or "") else where
