"""Show the result of the agent's `check`."""

from __future__ import annotations

from typing import Any

from irepdeploy.errors import MissingError, one_line

__all__ = ["missing_rows", "rows_of", "unusable"]

_UNKNOWN, _ABSENT = "unknown", "not installed"
_GIB = 1 << 30


def rows_of(value: dict[str, Any]) -> list[list[str]]:
    """Return one row per fact, including unknown ones."""
    cuda, clocks = _dict(value.get("cuda")), _dict(value.get("clocks"))
    mode = _dict(value.get("power_mode"))
    rows = [
        ("board", value.get("board") or ("no Jetson" if value.get("jetson") is False else None)),
        ("L4T", value.get("l4t")),
        ("JetPack", value.get("jetpack")),
        ("system", _joined(value.get("os"), value.get("kernel"), value.get("machine"))),
        ("Python", _joined(value.get("python"), value.get("python_path"))),
        ("numpy", _installed(value, "numpy")),
        ("TensorRT", value.get("tensorrt_problem") or _installed(value, "tensorrt")),
        ("trtexec", _installed(value, "trtexec")),
        ("CUDA", cuda.get("cuda_runtime") or cuda.get("gpu")),
        ("GPU", _joined(cuda.get("name"), cuda.get("compute_capability")) or ("none" if cuda.get("gpu") else None)),
        ("DLA cores", value.get("dla_cores")),
        ("ONNX Runtime", _installed(value, "onnxruntime")),
        ("can run now", " ".join(value.get("runners") or []) or "nothing"),
        ("power mode", _joined(mode.get("name"), mode.get("id"))),
        ("can switch clocks and mode", {True: "yes", False: "no"}.get(value.get("can_switch"))),  # type: ignore[arg-type]
        ("clocks", _clocks(clocks)),
        ("temperatures", _joined(*(f"{name} {degrees:.1f} C" for name, degrees in _numbers(value, "temperatures_c")))),
        ("power", _joined(*(f"{name} {rail:.0f} mW" for name, rail in _numbers(value, "rails_mw")))),
        ("load", _load(value.get("load_average"))),
        ("free disk", _gib(value.get("free_bytes"))),
        ("memory", _gib(value.get("memory_bytes"))),
    ]
    left = _dict(value.get("unrestored"))
    if left:
        rows.append(("NOT RESTORED", f"since {left.get('since')}: irepdeploy jetson restore HOST"))
    if value.get("jetson") is False:
        only = ("L4T", "JetPack", "DLA cores", "power mode", "power")
        rows = [row for row in rows if row[0] not in only]
    return [[name, one_line(str(text)) if text not in (None, "") else _UNKNOWN] for name, text in rows]


def missing_rows(value: dict[str, Any]) -> list[list[str]]:
    """Return a row for each missing item: what is missing, its use, and the command that fixes it."""
    return [
        [one_line(str(item.get(key) or "-")) for key in ("what", "for", "hint")] for item in value.get("missing") or []
    ]


def unusable(host: str, value: dict[str, Any]) -> MissingError | None:
    """Return the error for a machine without a runner, else None."""
    if value.get("runners"):
        return None
    missing = [_dict(item) for item in value.get("missing") or []]
    first = next((item for item in missing if item.get("for") in ("trt", "ort-cpu")), {})
    return MissingError(
        f"nothing can be measured on it: {one_line(str(first.get('what') or 'no runner'))}",
        where=host,
        hint=one_line(str(first["hint"])) if first.get("hint") else None,
    )


def _installed(value: dict[str, Any], key: str) -> Any:
    # The agent reports missing items as null.
    return _ABSENT if key in value and value[key] is None else value.get(key)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _joined(*parts: object) -> str:
    return ", ".join(str(part) for part in parts if part not in (None, ""))


def _numbers(value: dict[str, Any], key: str) -> list[tuple[str, float]]:
    return [(name, number) for name, number in _dict(value.get(key)).items() if isinstance(number, int | float)]


def _clocks(clocks: dict[str, Any]) -> str:
    parts = []
    for name in ("gpu", "emc"):
        clock = _dict(clocks.get(name))
        if clock.get("current_hz"):
            parts.append(f"{name.upper()} {_mhz(clock, 'current_hz')} of {_mhz(clock, 'max_hz')} MHz")
    cpus = [_dict(cpu) for cpu in clocks.get("cpu") or []]
    on = [cpu for cpu in cpus if cpu.get("online")]
    if cpus:
        governors = sorted({str(cpu["governor"]) for cpu in on if cpu.get("governor")})
        fastest = max((cpu.get("current_hz") or 0 for cpu in on), default=0)
        speed = f" at {fastest / 1e6:.0f} MHz" if fastest else ""
        parts.append(
            f"CPU {len(on)} of {len(cpus)} cores on{speed}" + (f" ({'+'.join(governors)})" if governors else "")
        )
    return ", ".join(parts)


def _mhz(clock: dict[str, Any], key: str) -> str:
    return f"{clock[key] / 1e6:.0f}" if isinstance(clock.get(key), int | float) else "?"


def _load(value: Any) -> str:
    return " ".join(f"{load:.2f}" for load in value) if isinstance(value, list) else ""


def _gib(size: Any) -> str | None:
    return f"{size / _GIB:.1f} GiB" if isinstance(size, int) else None
