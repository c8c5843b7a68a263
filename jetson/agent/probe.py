"""Probe which Python libraries work, in a separate process, since a crash or hang of a library is a finding too.

Each finding is printed at once, so that a crash loses only the later ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
from collections.abc import Sequence
from typing import Any

from irepdeploy.errors import IrepdeployError, one_line

__all__ = ["main", "probe"]

_LIMIT_S = 120
_NOTHING: dict[str, Any] = {
    "numpy": None,
    "onnxruntime": None,
    "cuda": {"gpu": "none: unknown"},
    "tensorrt": None,
    "tensorrt_problem": None,
    "dla_cores": None,
}


def probe(command: Sequence[str]) -> dict[str, Any]:
    """Run `command`, which must call `main`, and collect its findings.

    Returns:
        The versions of ``numpy``, ``onnxruntime`` and ``tensorrt``, or None; ``tensorrt_problem``, the reason why
        TensorRT does not work; ``dla_cores``, the number that TensorRT sees; ``cuda``, the result of
        `irepdeploy.board.cudart.device_facts`.
    """
    found = dict(_NOTHING)
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_LIMIT_S,
            check=False,
        )
        output, problem = done.stdout, f"it crashes (signal {-done.returncode})" if done.returncode < 0 else None
    except subprocess.TimeoutExpired as error:
        output, problem = error.stdout or b"", f"it does not load within {_LIMIT_S} s"
    except OSError as error:
        output, problem = b"", f"its process cannot be started: {error.strerror}"
    for line in output.decode("utf-8", "replace").splitlines():
        try:
            found.update(json.loads(line))
        except ValueError:
            continue
    if problem is not None and found["tensorrt"] is None:
        found["tensorrt_problem"] = problem
    return found


def main() -> None:
    """Probe the libraries and print a line for each."""
    for name in ("numpy", "onnxruntime"):
        print(json.dumps({name: _version(name)}), flush=True)
    print(json.dumps({"cuda": _cuda()}), flush=True)
    print(json.dumps(_tensorrt()), flush=True)


def _version(module: str) -> str | None:
    try:
        return str(importlib.import_module(module).__version__)
    except Exception:  # importing a broken library can raise anything
        return None


def _cuda() -> dict[str, Any]:
    try:
        from irepdeploy.board.cudart import device_facts

        return device_facts()
    except Exception as error:  # importing a binding can raise anything, and numpy may be missing
        return {"gpu": f"none: it cannot be probed: {one_line(error)}"}


def _tensorrt() -> dict[str, Any]:
    if importlib.util.find_spec("tensorrt") is None:
        return {}
    try:
        return _loaded_tensorrt()
    except IrepdeployError as error:
        return {"tensorrt_problem": error.what}
    except Exception as error:  # importing a library can raise anything
        return {"tensorrt_problem": f"{type(error).__name__}: {one_line(error)}"}


def _loaded_tensorrt() -> dict[str, Any]:
    from irepdeploy.board.trt_library import load_tensorrt, logged, logger_of

    library = load_tensorrt("tensorrt")
    messages: list[tuple[str, str]] = []
    logger = logger_of(library.module, lambda severity, text: messages.append((severity, text)))
    found: dict[str, Any] = {"tensorrt": library.version}
    try:
        builder = library.module.Builder(logger)
        return {**found, "dla_cores": int(getattr(builder, "num_DLA_cores", 0))}
    except (RuntimeError, TypeError) as error:
        # pybind11 raises TypeError for a null pointer.
        reasons = "; ".join(logged(messages)[:2] or [one_line(error)])
        return {**found, "tensorrt_problem": f"it creates no builder: {reasons}"}
