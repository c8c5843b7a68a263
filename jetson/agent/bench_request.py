"""The request of a bench, checked before anything on the board is changed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from irepdeploy.errors import InputError

__all__ = ["CLOCKS", "RUNNERS", "BenchModel", "BenchRequest", "parse_bench"]

RUNNERS = ("trt", "ort-cpu")
PRECISIONS = ("fp32", "fp16", "int8", "bf16", "fp64")
CLOCKS = ("max", "as-is")

_DIGEST = re.compile(r"[0-9a-f]{64}")
# The power monitors average over about this time.
_SHORTEST_POWER_S = 1.0


@dataclass(frozen=True)
class BenchModel:
    """A model of a bench.

    Attributes:
        sha256: Digest of the ONNX file in the cache.
        carried: Precision of the ONNX model itself.
        name: Name of its file on the desk, for messages.
        dla: DLA core to run supported layers on; None for the GPU only.
        profiles: Minimum, optimum and maximum shape of each input with a dynamic dimension.
        limits: Smallest and largest random value of integer inputs.
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
    limits: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, str] | None = None


@dataclass(frozen=True)
class BenchRequest:
    """The request of a bench.

    Attributes:
        via: "trtexec" to also run the board's own trtexec.
        build_only: Build and check engines and keep them for fetching, without measuring.
        power: Seconds of the steady loop in which energy is measured; None for no such loop.
        mode: Name or number of a power mode; None to keep the current one.
        clocks: "max" locks the clocks, "as-is" leaves them; None locks them on a Jetson that permits it.
    """

    models: tuple[BenchModel, ...]
    runner: str = "trt"
    via: str | None = None
    build_only: bool = False
    threads: int = 1
    seed: int = 0
    min_samples: int = 64
    min_seconds: float = 5.0
    max_samples: int = 10_000
    warmup_min_seconds: float = 0.5
    warmup_max_seconds: float = 5.0
    build_timeout_s: float = 3600.0
    power: float | None = None
    mode: str | int | None = None
    clocks: str | None = None

    def limits(self) -> dict[str, Any]:
        """Return the limits of the measurement as arguments of `irepdeploy.board.protocol.measure`."""
        names = ("min_samples", "min_seconds", "max_samples", "warmup_min_seconds", "warmup_max_seconds")
        return {name: getattr(self, name) for name in names}


def parse_bench(request: dict[str, Any]) -> BenchRequest:
    """Parse and check a request."""
    given = {key: value for key, value in request.items() if key != "lifeline"}
    models = given.pop("models", None)
    if not isinstance(models, list) or not models:
        raise InputError("expected a list of at least one model", where="models")
    power = given.pop("power", None)
    if power not in (None, False):
        seconds = power.get("seconds", 10.0) if isinstance(power, dict) else None
        given["power"] = _number("power", seconds, _SHORTEST_POWER_S)
    parsed = _filled(BenchRequest, "request", {**given, "models": tuple(_model(one) for one in models)})
    labels = [model.label for model in parsed.models]
    if len(set(labels)) < len(labels):
        raise InputError("two models have the same label", where="models", hint="use different labels")
    _check(parsed)
    return parsed


def _model(given: Any) -> BenchModel:
    if not isinstance(given, dict):
        raise InputError(f"expected a model as an object, got {given!r}", where="models")
    model = _filled(BenchModel, "models", given)
    where = f"model {model.label!r}"
    _one_of(f"{where}, precision", model.precision, PRECISIONS)
    _one_of(f"{where}, carried", model.carried, PRECISIONS)
    _number(f"{where}, batch", model.batch, 1)
    digests = [model.sha256]
    if model.gate is not None:
        if set(model.gate) != {"inputs", "expected", "tolerance"}:
            raise InputError("expected inputs, expected and tolerance in the gate", where=where)
        digests += [model.gate["inputs"], model.gate["expected"]]
    for digest in digests:
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise InputError(f"expected a SHA-256, got {digest!r}", where=where)
    if model.dla is not None and (not isinstance(model.dla, int) or not 0 <= model.dla < 8):
        raise InputError(f"expected DLA core 0 or 1, got {model.dla!r}", where=where)
    return model


def _check(request: BenchRequest) -> None:
    _one_of("runner", request.runner, RUNNERS)
    _one_of("via", request.via, (None, "trtexec"))
    _one_of("clocks", request.clocks, (None, *CLOCKS))
    for name, least in (("threads", 1), ("min_samples", 1), ("max_samples", 1), ("seed", 0)):
        value = getattr(request, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"expected an integer of at least {least}, got {value!r}", where=name)
    for name in ("min_seconds", "warmup_min_seconds", "warmup_max_seconds", "build_timeout_s"):
        _number(name, getattr(request, name), 0)
    engines = request.via or request.build_only or any(model.dla is not None for model in request.models)
    if request.runner != "trt" and engines:
        raise InputError(f"{request.runner} builds no engines", where="runner", hint="trt does")


def _filled(kind: Any, where: str, given: dict[str, Any]) -> Any:
    unknown = sorted(set(given) - {item.name for item in fields(kind)})
    if unknown:
        raise InputError(f"unknown keys: {', '.join(unknown)}", where=where, hint="do desk and agent versions match?")
    try:
        # null means not given.
        return kind(**{key: value for key, value in given.items() if value is not None})
    except TypeError as error:
        raise InputError(str(error).split("__init__() ")[-1], where=where) from None


def _one_of(where: str, value: Any, known: tuple[str | None, ...]) -> None:
    if value not in known:
        raise InputError(f"expected one of {', '.join(filter(None, known))}, got {value!r}", where=where)


def _number(where: str, value: Any, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 1e9:
        raise InputError(f"expected a number of at least {least:g}, got {value!r}", where=where)
    return float(value)
