"""Child process of `OnnxProcess`: ``python -m irepdeploy.verify.onnx_worker DESCRIPTOR``.

It answers each message on the socket ("open", "run" or "close" a model) with one message, and ends when the socket is
closed.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import sys
import traceback
from typing import Any

import numpy as np

from irepdeploy.board.failure import named
from irepdeploy.board.lifetime import end_with_parent
from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.errors import IrepdeployError, ModelError, RunError
from irepdeploy.limits import memory_bytes
from irepdeploy.verify.array_message import ArrayMessage, BrokenMessageError

__all__: list[str] = []


def main(descriptor: int) -> None:
    """Serve until the parent closes its end."""
    end_with_parent()
    # Ctrl-C reaches the whole process group, but it is the parent that ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory()
    # Import early; otherwise the import would count towards the time of the first model.
    with contextlib.suppress(ImportError):
        import onnxruntime  # noqa: F401
    runners: dict[int, OrtRunner] = {}
    with socket.socket(fileno=descriptor) as parent, contextlib.suppress(BrokenMessageError, ConnectionError):
        ArrayMessage({}).send(parent)
        while True:
            asked = ArrayMessage.receive(parent)
            try:
                answer = _answer(asked, runners)
            except IrepdeployError as error:
                answer = ArrayMessage({"error": named(error)})
            except MemoryError:
                answer = ArrayMessage({"error": named(RunError("out of memory", hint="use a smaller batch"))})
            except UnicodeDecodeError:
                answer = ArrayMessage({"error": named(ModelError("damaged: a name in it is not UTF-8"))})
            except Exception:  # the parent raises it as a bug
                answer = ArrayMessage({"bug": traceback.format_exc()})
            answer.send(parent)


def _answer(asked: ArrayMessage, runners: dict[int, OrtRunner]) -> ArrayMessage:
    verb, number = asked.values["verb"], asked.values["number"]
    if verb == "open":
        content = asked.arrays.get("model")
        runner = OrtRunner(
            asked.values["path"] if content is None else content.tobytes(),
            **asked.values["settings"],
        )
        runners[number] = runner.__enter__()
        specs = [[spec.name, spec.shape, spec.dtype] for spec in runner.inputs]
        about = {"outputs": runner.outputs, "metadata": runner.metadata, "described": runner.describe()}
        return ArrayMessage({"inputs": specs, "dimensions": runner.dimensions, **about})
    if verb == "run":
        outputs = runners[number].infer(dict(asked.arrays))
        for name, value in outputs.items():
            if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
                raise ModelError(f"output {name!r} is not an array of numbers")
        return ArrayMessage({}, outputs)
    runners.pop(number, contextlib.nullcontext()).__exit__(None, None, None)
    return ArrayMessage({})


def _limit_memory() -> None:
    """Limit memory so that this process runs out of it before the machine does, and disable core files."""
    limits: dict[int, Any] = {resource.RLIMIT_DATA: memory_bytes(), resource.RLIMIT_CORE: 0}
    for kind, most in limits.items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
    # If memory runs out nevertheless, the kernel ends this process instead of its parent.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


if __name__ == "__main__":
    main(int(sys.argv[1]))
