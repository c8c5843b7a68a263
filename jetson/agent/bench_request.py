"""What a bench is asked to do, checked before anything is touched.

Python 3.8, stdlib only: the board's agent carries this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from irepdeploy.board.trtexec import TRANSFERS
from irepdeploy.errors import InputError

__all__ = ["RUNNERS", "BenchModel", "BenchRequest", "parse_bench"]

RUNNERS = ("trt", "ort-cpu")
PRECISIONS = ("fp32", "fp16", "int8", "bf16", "fp64")
CLOCKS = ("max", "as-is")

_DIGEST = re.compile(r"[0-9a-f]{64}")
# At least so long is the mean of the power monitors taken over.
_SHORTEST_POWER_S = 1.0


@dataclass(frozen=True)
class BenchModel:
    """One model.

    Args:
        sha256: of the ONNX in the cache. `name`: of its file at the desk, for messages.
        precision: of the engine. `carried`: what the ONNX itself is in.
        batch: where the ONNX leaves it free.
        dla: the core that takes what layers it can, None for the GPU alone.
        profiles: smallest, best and largest shape of each input with a free dimension.
        gate: ``inputs`` and ``expected``, digests of .npz files in the cache, and ``tolerance``, a name.
    """

    label: str
    sha256: str
    precision: str = "fp32"
    carried: str = "fp32"
    name: str = "MODEL.onnx"
    batch: int = 1
    dla: int | None = None
    profiles: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, str] | None = None


@dataclass(frozen=True)
class BenchRequest:
    """A bench.

    Args:
        builds: engines of each model, each measured.
        power: seconds of the steady loop that energy is taken from, None for none.
        mode: name or number of a power mode, None to leave it.
        clocks: "max" holds them, "as-is" leaves them; None decides by the board.
        keep: leave the job's folder until it is cleaned.
    """

    models: tuple[BenchModel, ...]
    runner: str = "trt"
    via: str | None = None
    build_only: bool = False
    builds: int = 1
    threads: int = 1
    spinning: bool = True
    transfers: str = "excluded"
    seed: int = 0
    min_samples: int = 64
    min_seconds: float = 5.0
    max_samples: int = 10_000
    warmup_min_seconds: float = 0.5
    warmup_max_seconds: float = 5.0
    workspace_bytes: int | None = None
    tf32: bool = False
    timing_cache: bool = True
    cuda_graph: bool = True
    build_timeout_s: float = 3600.0
    power: float | None = None
    mode: str | int | None = None
    clocks: str | None = None
    keep: bool = False

    def limits(self) -> dict[str, Any]:
        """Of the measurement, as `irepdeploy.board.protocol.measure` takes them."""
        names = ("min_samples", "min_seconds", "max_samples", "warmup_min_seconds", "warmup_max_seconds")
        return {name: getattr(self, name) for name in names}


def parse_bench(request: dict[str, Any]) -> BenchRequest:
    """Read a request.

    Raises:
        InputError: a key or value is wrong; the first one is named.
    """
    given = {key: value for key, value in request.items() if key != "lifeline"}
    models = given.pop("models", None)
    if not isinstance(models, list) or not models:
        raise InputError("no models", where="models", hint="a list of at least one")
    power = given.pop("power", None)
    if power not in (None, False):
        seconds = power.get("seconds", 10.0) if isinstance(power, dict) else None
        given["power"] = _number("power", seconds, _SHORTEST_POWER_S)
    parsed = _filled(BenchRequest, "request", {**given, "models": tuple(_model(one) for one in models)})
    labels = [model.label for model in parsed.models]
    if len(set(labels)) < len(labels):
        raise InputError("two models with one label", where="models", hint="label them apart")
    _check(parsed)
    return parsed


def _model(given: Any) -> BenchModel:
    if not isinstance(given, dict):
        raise InputError(f"a model that is no object: {given!r}", where="models")
    model = _filled(BenchModel, "models", given)
    where = f"model {model.label!r}"
    _one_of(f"{where}, precision", model.precision, PRECISIONS)
    _one_of(f"{where}, carried", model.carried, PRECISIONS)
    _number(f"{where}, batch", model.batch, 1)
    digests = [model.sha256]
    if model.gate is not None:
        if set(model.gate) != {"inputs", "expected", "tolerance"}:
            raise InputError("a gate is inputs, expected and tolerance", where=where)
        digests += [model.gate["inputs"], model.gate["expected"]]
    for digest in digests:
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise InputError(f"no SHA-256: {digest!r}", where=where)
    if model.dla is not None and (not isinstance(model.dla, int) or not 0 <= model.dla < 8):
        raise InputError(f"no DLA core {model.dla!r}", where=where, hint="0 or 1")
    return model


def _check(request: BenchRequest) -> None:
    _one_of("runner", request.runner, RUNNERS)
    _one_of("transfers", request.transfers, TRANSFERS)
    if request.via not in (None, "trtexec"):
        raise InputError(f"via {request.via!r}", where="via", hint="trtexec")
    if request.clocks is not None:
        _one_of("clocks", request.clocks, CLOCKS)
    for name, least in (("builds", 1), ("threads", 1), ("min_samples", 1), ("max_samples", 1), ("seed", 0)):
        value = getattr(request, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{value!r}", where=name, hint=f"a whole number from {least} up")
    for name in ("min_seconds", "warmup_min_seconds", "warmup_max_seconds", "build_timeout_s"):
        _number(name, getattr(request, name), 0)
    engines = request.via or request.build_only or any(model.dla is not None for model in request.models)
    if request.runner != "trt" and engines:
        raise InputError(f"{request.runner} builds no engines", where="runner", hint="trt does")


def _filled(kind: Any, where: str, given: dict[str, Any]) -> Any:
    unknown = sorted(set(given) - {item.name for item in fields(kind)})
    if unknown:
        raise InputError(f"unknown: {', '.join(unknown)}", where=where, hint="is the agent of the desk's own version?")
    try:
        # A null is what was not said.
        return kind(**{key: value for key, value in given.items() if value is not None})
    except TypeError as error:
        raise InputError(str(error).split("__init__() ")[-1], where=where) from None


def _one_of(where: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{value!r}", where=where, hint="one of " + ", ".join(known))


def _number(where: str, value: Any, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 1e9:
        raise InputError(f"{value!r}", where=where, hint=f"a number from {least:g} up")
    return float(value)
