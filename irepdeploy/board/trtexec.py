"""Reading of trtexec's raw times, and command lines with which all its versions measure the same thing.

By default, trtexec 11 enables CUDA graphs and spinning and disables transfers; earlier versions do the opposite. The
same command line would give incomparable figures, so each version gets the options that are not its defaults.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

from irepdeploy.board.transfers import TRANSFERS
from irepdeploy.errors import InputError
from irepdeploy.limits import JOURNAL, read_file

__all__ = ["PRECISIONS", "TrtexecTimes", "arguments", "read_times"]

PRECISIONS = ("fp32", "fp16", "int8")

_DURATIONS = ("latencyMs", "computeMs", "h2dMs", "d2hMs")
_MOMENTS = ("startEnqMs", "endEnqMs")
# Minimum number of samples for reporting a 90th percentile, however short `seconds` is.
_ITERATIONS = 64
_WARM_UP_MS = 2000

_Path = Union[str, "os.PathLike[str]"]


class TrtexecTimes(NamedTuple):
    """Raw times of all queries, in ns and in measuring order.

    Attributes:
        latency_ns: The sum h2d + compute + d2h of device times, trtexec's "Latency"; not the time a caller waits.
        compute_ns: Times between the events around the kernels.
        h2d_ns: Times of the copies to the device.
        d2h_ns: Times of the copies to the host.
        enqueue_ns: Host times of the enqueue. They are written with six digits: to 10 us after the first second.
        transfers: "excluded" if no query includes a copy, otherwise "included".
        warmup_included: Whether the first queries belong to the warm-up, which trtexec before 8.5 also wrote.
    """

    latency_ns: List[int]
    compute_ns: List[int]
    h2d_ns: List[int]
    d2h_ns: List[int]
    enqueue_ns: List[int]
    transfers: str
    warmup_included: bool


def read_times(path: _Path) -> TrtexecTimes:
    """Read a file written by ``trtexec --exportTimes=FILE``, versions 8 to 11.

    Raises:
        InputError: The file is missing, truncated, contains no query, or is not JSON in this format. The message names
            the invalid query.
    """
    where = os.fspath(path)
    queries = _queries(where)
    columns: Dict[str, List[float]] = {name: [] for name in _DURATIONS + _MOMENTS}
    for number, query in enumerate(queries, 1):
        for name, column in columns.items():
            value = query.get(name) if isinstance(query, dict) else None
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise InputError(f"expected a time {name}, got {value!r}", where=f"{where}, query {number}", hint=_HINT)
            column.append(value)
    latency, compute, h2d, d2h = (_nanoseconds(columns[name]) for name in _DURATIONS)
    enqueue = _nanoseconds([end - start for start, end in zip(columns["startEnqMs"], columns["endEnqMs"])])
    transfers = TRANSFERS[any(h2d) or any(d2h)]
    return TrtexecTimes(latency, compute, h2d, d2h, enqueue, transfers, "endToEndMs" in queries[0])


def arguments(
    version: str,
    engine: _Path,
    *,
    times: _Path,
    seconds: float = 10.0,
    dla: Optional[int] = None,
    shapes: Optional[Dict[str, Tuple[int, ...]]] = None,
) -> List[str]:
    """Return arguments that make every trtexec measure the same: CUDA graph, spinning, one stream, no copies.

    Args:
        version: Version of TensorRT, such as "8.5.2".
        engine: Path of the engine.
        times: Path of the file for the raw times.
        seconds: Minimum duration of the measurement. At least 64 queries are run in any case.
        dla: DLA core to use; None for the GPU.
        shapes: Shapes by input name, for engines with dynamic shapes.

    Raises:
        InputError: The version is invalid or not supported.
    """
    major = _major(version)
    words = [f"--loadEngine={os.fspath(engine)}"]
    if shapes:
        words.append("--shapes=" + ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items()))
    if dla is not None:
        words.append(f"--useDLACore={dla}")
    words += [] if major >= 11 else ["--useSpinWait", "--useCudaGraph", "--noDataTransfers"]
    words += [f"--warmUp={_WARM_UP_MS}", f"--duration={math.ceil(seconds)}", f"--iterations={_ITERATIONS}"]
    return [*words, f"--exportTimes={os.fspath(times)}"]


_HINT = "was this file written by trtexec --exportTimes?"


def _major(version: str) -> int:
    try:
        major = int(version.split(".")[0])
    except ValueError:
        raise InputError(
            f"expected a version such as 8.5.2, got {version!r}", where="trtexec", hint="versions 8 to 11 are supported"
        ) from None
    if not 8 <= major <= 11:
        raise InputError(f"TensorRT {version} is not supported", where="trtexec", hint="versions 8 to 11 are")
    return major


def _queries(where: str) -> List[Any]:
    try:
        queries = json.loads(read_file(where, "file of times", JOURNAL))
    except (ValueError, RecursionError):
        raise InputError("not trtexec's times: not JSON, or truncated", where=where, hint=_HINT) from None
    if not isinstance(queries, list):
        raise InputError("not trtexec's times: not a list", where=where, hint=_HINT)
    if not queries:
        raise InputError("no query was timed", where=where, hint="let trtexec run longer")
    return queries


def _nanoseconds(milliseconds: List[float]) -> List[int]:
    return [max(0, round(value * 1e6)) for value in milliseconds]
