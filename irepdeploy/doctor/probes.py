"""Probes of libraries that are heavy, may crash or may hang, run in a separate process.

Each function returns JSON values. ``python -m irepdeploy.doctor.probes NAME ARGUMENT...`` prints them as the last line.
"""

from __future__ import annotations

import base64
import importlib
import json
import signal
import subprocess
import sys
import warnings
from typing import Any

from irepdeploy.board.trt_library import load_tensorrt, logged, logger_of
from irepdeploy.errors import IrepdeployError, RunError, one_line

__all__ = ["cuda", "imported", "listed_providers", "probe", "session", "tensorrt", "torch_state"]

_SECONDS = 180.0
# One 3x3 convolution of a 1x1x3x3 input "x" with ones, opset 13: some providers load but cannot run even that.
_MODEL = (
    "CAgSADqDAQoPCgF4CgF3EgF5IgRDb252EgFnKjMIAQgBCAMIAxABIiQAAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD9CAXdaGwoBeBIW"
    "ChQIARIQCgIIAQoCCAEKAggDCgIIA2IbCgF5EhYKFAgBEhAKAggBCgIIAQoCCAEKAggBQgQKABAN"
)


def probe(name: str, *arguments: str) -> tuple[Any, str]:
    """Call a function of this module in another process; return its result and the output on stderr.

    Raises:
        RunError: The process raises an exception, crashes, or does not answer in time.
    """
    try:
        done = subprocess.run(
            # -P, because a file torch.py in the user's folder must not shadow torch.
            [sys.executable, "-P", "-m", "irepdeploy.doctor.probes", name, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(f"no answer within {_SECONDS:.0f} s") from error
    except OSError as error:
        raise RunError(f"no process could be started: {one_line(error)}") from error
    if done.returncode < 0:
        raise RunError(f"crashed with {_signal(-done.returncode)}")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        if not done.returncode:
            return json.loads(last), done.stderr
    except ValueError as error:
        raise RunError(f"answered {last!r}") from error
    raise RunError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])


def imported(module: str) -> dict[str, Any]:
    """Import a module and return its ``__version__`` ("" if it has none). Exceptions of the import are not caught."""
    return {"version": str(getattr(importlib.import_module(module), "__version__", ""))}


def torch_state() -> dict[str, Any]:
    """Return the devices and the default TF32 settings of torch."""
    import torch

    usable = torch.cuda.is_available()
    return {
        "cuda": torch.version.cuda,
        "gpus": torch.cuda.device_count() if usable else 0,
        "capability": list(torch.cuda.get_device_capability()) if usable else None,
        "threads": torch.get_num_threads(),
        "tf32_conv": torch.backends.cudnn.allow_tf32,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
    }


def listed_providers() -> list[str]:
    """Return the execution providers that onnxruntime was built with, whether or not they load."""
    import onnxruntime

    return onnxruntime.get_available_providers()


def session(provider: str) -> list[str]:
    """Run a session with a provider and return the providers that it actually uses."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    made = onnxruntime.InferenceSession(base64.b64decode(_MODEL), options, providers=[provider])
    made.run(None, {"x": np.ones((1, 1, 3, 3), np.float32)})
    return made.get_providers()


def tensorrt(flavour: str) -> dict[str, Any]:
    """Return the title and version of a TensorRT, whether it was assembled for tests, and why it cannot build."""
    library = load_tensorrt(flavour)
    messages: list[tuple[str, str]] = []
    logger = logger_of(library.module, lambda severity, text: messages.append((severity, text)))
    try:
        why = "" if library.module.Builder(logger) is not None else "it cannot create a builder"
    except (RuntimeError, TypeError) as error:
        # pybind11 raises TypeError for a null pointer.
        why = one_line(error)
    if why:
        why = "; ".join(logged(messages)[:2]) or why
    return {"title": library.title, "version": library.version, "assembled": library.assembled, "why": why}


def cuda() -> dict[str, Any]:
    """Return `irepdeploy.board.cudart.device_facts()`."""
    from irepdeploy.board.cudart import device_facts

    return device_facts()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _main(name: str, *arguments: str) -> int:
    # Warnings on import would hide the reason for a failure on stderr.
    warnings.simplefilter("ignore")
    try:
        print("\n" + json.dumps(globals()[name](*arguments)))
    except IrepdeployError as error:
        print(error.what, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
