"""Description of the device of a record, and its system block as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from irepdeploy.board.system import UNKNOWN
from irepdeploy.errors import counted
from irepdeploy.runs.record import Record

__all__ = ["device_of", "system_facts"]

_GIB = 1 << 30
# If records have many different values, only the first few are shown.
_SHOWN = 4


def device_of(record: Record) -> str:
    """Return the processor that ran the network and the settings that determine its speed, from the system block."""
    system, runner = record.system, record.runner
    place = f"{runner.get('device', '')} {runner.get('provider', '')} {runner.get('runner', '')}".lower()
    on_gpu = any(word in place for word in ("cuda", "gpu", "trt", "tensorrt"))
    board = _text(system.get("board") or system.get("model"))
    gpus = system.get("gpu")
    names = [_text(gpu.get("name")) for gpu in gpus if isinstance(gpu, dict)] if isinstance(gpus, list) else []
    cpu = system.get("cpu")
    parts = [board] if board else [" + ".join(dict.fromkeys(names))] if on_gpu and any(names) else _cpu(cpu, system)
    mode = _text(system.get("power_mode"))
    return ", ".join(filter(None, [*parts, mode])) or "unknown device"


def system_facts(records: Iterable[Record]) -> list[tuple[str, str]]:
    """Return the entries of the system blocks as (key, value); where records differ, all values are listed."""
    values: dict[str, list[str]] = {}
    for record in records:
        for key, value in [*_flat(record.system), *_flat(record.system_after, "after: ")]:
            values.setdefault(key, [])
            if value not in values[key]:
                values[key].append(value)
    return [
        (key, " | ".join(found[:_SHOWN]) + (f" | {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""))
        for key, found in values.items()
    ]


def _cpu(cpu: object, system: Mapping[str, Any]) -> list[str]:
    if not isinstance(cpu, Mapping):
        return []
    cores, memory = cpu.get("logical_cores"), system.get("memory")
    total = memory.get("total_bytes") if isinstance(memory, Mapping) else None
    governor = _text(cpu.get("governor"))
    machine = _text(cpu.get("machine"))
    return [
        _text(cpu.get("model")) or (f"unknown {machine} processor" if machine else ""),
        counted(cores, "core") if isinstance(cores, int) else "",
        f"{total / _GIB:.0f} GiB" if isinstance(total, int) else "",
        f"governor {governor}" if governor else "",
    ]


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = str(key).replace("_", " ")
            leaf = not isinstance(inner, Mapping | list) or (isinstance(inner, list) and not _holds_more(inner))
            if leaf and name.endswith(" bytes") and isinstance(inner, int):
                yield f"{prefix}{name.removesuffix(' bytes')}", f"{inner / _GIB:.1f} GiB"
            elif leaf:
                yield f"{prefix}{name}", _leaf(inner)
            else:
                yield from _flat(inner, f"{prefix}{name} ")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}{index} " if len(value) > 1 else prefix)
    else:
        yield prefix.strip(), _leaf(value)


def _holds_more(values: list[Any]) -> bool:
    return any(isinstance(inner, Mapping | list) for inner in values)


def _leaf(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _text(value: object) -> str:
    """Return the value if it is known and a string, else ""."""
    return value if isinstance(value, str) and value not in (UNKNOWN, "none") else ""
