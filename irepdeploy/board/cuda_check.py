"""Check that CUDA behaves as this package requires: copies, events, graphs, and failing captures."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Tuple

import numpy as np

from irepdeploy.board.cuda_device import Cuda
from irepdeploy.board.cudart import BACKENDS, device_facts, open_cuda
from irepdeploy.errors import CheckFailed, IrepdeployError, MissingError, RunError

__all__ = ["check_bindings", "check_calls", "check_graphs"]

_SIZE = 1 << 16


def check_bindings() -> Tuple[str, Mapping[str, Any]]:
    """Open the GPU with every installed binding.

    Returns:
        A line of text for the user, and the GPU's facts and the result of each binding.

    Raises:
        MissingError: There is no usable GPU.
        CheckFailed: Two bindings see different GPUs.
    """
    facts = device_facts()
    if "compute_capability" not in facts:
        raise MissingError(str(facts.get("gpu", "none")), where="GPU")
    found: Dict[str, Any] = {}
    for name in BACKENDS:
        try:
            cuda = open_cuda(backend=name)
        except (MissingError, RunError) as error:
            found[name] = error.what
            continue
        found[name] = cuda.facts()
        cuda.close()
    working = [name for name, each in found.items() if isinstance(each, dict)]
    seen = {(found[name]["name"], found[name]["compute_capability"]) for name in working}
    if len(seen) > 1:
        raise CheckFailed(f"the bindings see different GPUs: {sorted(seen)}", where="CUDA")
    # Report bindings that are installed but do not work; for instance, a runtime may be newer than the driver.
    broken = [f"{name}: {each}" for name, each in found.items() if isinstance(each, str) and "installed" not in each]
    said = f"{facts['name']}, compute capability {facts['compute_capability']}, by {', '.join(working)}"
    return "; ".join([said, *broken]), {"facts": facts, "bindings": found}


def check_graphs() -> Tuple[str, Mapping[str, Any]]:
    """Run `check_calls` with every binding that supports CUDA graphs.

    Returns:
        A line of text for the user, and the figures of `check_calls` for each binding.

    Raises:
        MissingError: There is no usable GPU.
        CheckFailed: A call gives a wrong result.
    """
    if "compute_capability" not in device_facts():
        raise MissingError("needs a GPU")
    figures: Dict[str, Any] = {}
    for name in BACKENDS:
        if name == "pycuda":
            continue
        try:
            cuda = open_cuda(backend=name)
        except MissingError:
            continue
        figures[name] = check_calls(cuda)
        cuda.close()
    return f"copies, events and graphs work with {', '.join(figures)}", figures


def check_calls(cuda: Cuda) -> Dict[str, Any]:
    """Copy data to the GPU and back, time that with events, launch it as a graph, and capture again after a failure.

    Returns:
        Times in ms by step, and the error message of the failing capture.

    Raises:
        CheckFailed: A call gives a wrong result.
    """
    stream = cuda.stream()
    there = cuda.host_array((_SIZE,), "float32")
    back = cuda.host_array((_SIZE,), "float32")
    pointer = cuda.malloc(there.nbytes)
    start, end = cuda.event(), cuda.event()
    there[...] = np.arange(_SIZE, dtype=np.float32)

    def copies() -> None:
        cuda.to_device(pointer, there, stream)
        cuda.to_host(back, pointer, stream)

    def run(call: Any, what: str) -> float:
        back[...] = 0
        cuda.record(start, stream)
        call()
        cuda.record(end, stream)
        cuda.synchronize(stream)
        if not np.array_equal(back, there):
            raise CheckFailed(f"{what} gives back other values", where=cuda.name)
        milliseconds = cuda.elapsed_ms(start, end)
        if not 0 < milliseconds < 10_000:
            raise CheckFailed(f"{what} took {milliseconds} ms according to its events", where=cuda.name)
        return milliseconds

    try:
        figures: Dict[str, Any] = {"copies_ms": run(copies, "a copy")}
        graph = cuda.capture(stream, copies)
        figures["graph_ms"] = run(graph, "a graph")
        there += 1
        figures["again_ms"] = run(graph, "a graph launched again")
        graph.end()
        figures["failed_capture"] = _fails(cuda, stream)
        again = cuda.capture(stream, copies)
        figures["next_ms"] = run(again, "a graph captured after one that failed")
        again.end()
    finally:
        for event in (start, end):
            cuda.end_event(event)
        cuda.free(pointer)
        cuda.end_stream(stream)
        for array in (there, back):
            cuda.free_host(array)
    return figures


def _fails(cuda: Cuda, stream: int) -> str:
    """Synchronize a stream during its capture, which CUDA forbids, and return the error message."""
    try:
        cuda.capture(stream, lambda: cuda.synchronize(stream))
    except RunError as error:
        return error.what
    except IrepdeployError as error:
        what = f"a capture that waits fails as {type(error).__name__}: {error.what}"
        raise CheckFailed(what, where=cuda.name) from error
    raise CheckFailed("a capture that waits for its stream does not fail", where=cuda.name)
