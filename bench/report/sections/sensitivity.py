"""Sensitivity: cost of lower precision layer by layer, from the certificates of exports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from irepdeploy.errors import counted

from ..certified import Certified
from ..charts.frame import Chart
from ..charts.intervals import IntervalRow, intervals
from ..others import PlainTable
from .section import Section

__all__ = ["precision_claims", "sensitivity"]

_MOST_ROWS = 40
_FLOAT16 = 65504


def sensitivity(found: Sequence[Certified]) -> Section | None:
    """Return a section on layers in int8 and float16; None if no export is below float32 or has fused blocks."""
    charts: list[Chart] = []
    tables: list[PlainTable] = []
    for each in found:
        layers = _int8_layers(each)
        if layers or (layers := _fused_layers(each)):
            charts.append(_chart(each, layers))
            tables.append(_table(each, layers))
    claims = tuple(claim for each in found for claim in precision_claims(each))
    if not (charts or tables or claims):
        return None
    text = (
        "SQNR: signal over the noise of quantization, in decibels; 6 dB are one bit. Alone: of the network's outputs "
        "if only this layer is int8, known where layers had to be ranked; otherwise the chart shows the weights."
    )
    return Section("sensitivity", "Sensitivity of layers", text, claims, tuple(charts), tuple(tables))


def precision_claims(found: Certified) -> Iterator[str]:
    """Yield a sentence on the cost of each lower precision of an export."""
    precisions = found.certificate.precisions
    int8 = precisions.get("int8")
    if isinstance(int8, Mapping):
        drop, most, cosine = (_number(int8.get(name)) for name in ("drop", "max_drop", "cosine"))
        kept = int8.get("kept_float")
        said = "int8 loses an amount that is not known" if drop is None else f"int8 loses {drop:.2f} points"
        said += "" if most is None or drop is None else f" of the {most:g} allowed"
        said += "" if cosine is None else f", cosine {cosine:.5f}"
        if isinstance(kept, list) and kept:
            said += f"; {counted(len(kept), 'layer')} {'stays' if len(kept) == 1 else 'stay'} float"
        yield f"{found.name}: {said}."
    fp16 = precisions.get("fp16")
    ranges = fp16.get("ranges") if isinstance(fp16, Mapping) else None
    if isinstance(ranges, Mapping):
        weight, activation = (_number(ranges.get(name)) for name in ("max_weight", "max_activation"))
        if weight is not None and activation is not None:
            yield (
                f"{found.name}: fp16 holds weights up to {weight:.3g} and activations up to {activation:.3g}; it "
                f"overflows at {_FLOAT16}."
            )


def _int8_layers(found: Certified) -> list[Mapping[str, Any]]:
    int8 = found.certificate.precisions.get("int8")
    layers = int8.get("layers") if isinstance(int8, Mapping) else None
    return [layer for layer in layers if isinstance(layer, Mapping)] if isinstance(layers, list) else []


def _chart(found: Certified, layers: Sequence[Mapping[str, Any]]) -> Chart:
    key, what = ("alone_db", "outputs, this layer alone in int8")
    if not any(_number(layer.get(key)) is not None for layer in layers):
        key, what = "channel_db", "weights, one scale for each channel"
    known = [(value, layer) for layer in layers if (value := _number(layer.get(key))) is not None]
    known.sort(key=lambda pair: pair[0])
    rows = [
        IntervalRow(
            str(layer.get("layer")),
            value,
            f"{value:.1f} dB{', stays float' if layer.get('kept_float') is True else ''}",
            look="worse" if layer.get("kept_float") is True else "better",
        )
        for value, layer in known[:_MOST_ROWS]
    ]
    title = f"{found.name}: layers by sensitivity to int8"
    more = f" The {_MOST_ROWS} lowest of {len(known)}." if len(known) > _MOST_ROWS else ""
    svg = intervals(rows or [IntervalRow("no layer", 0.0, "not known")], title, f"SQNR of the {what}, dB")
    return Chart(title, f"Most sensitive first.{more}", svg)


def _table(found: Certified, layers: Sequence[Mapping[str, Any]]) -> PlainTable:
    heads = ("layer", "operator", "stays float", "tensor, dB", "channel, dB", "worst channel, dB", "alone, dB")
    keys = ("tensor_db", "channel_db", "worst_channel_db", "alone_db")
    rows = [
        (
            str(layer.get("layer")),
            str(layer.get("operator", "")),
            "yes" if layer.get("kept_float") is True else "",
            *(_text(layer.get(key)) for key in keys),
        )
        for layer in layers
    ]
    width = len(heads) if any(row[-1] for row in rows) else len(heads) - 1
    rows = [row[:width] for row in rows]
    return PlainTable(f"{found.name}: layers in int8", "SQNR", heads[:width], tuple(rows))


def _fused_layers(found: Certified) -> list[Mapping[str, Any]]:
    """Return the errors that int8 would cause in the weights of fused blocks, if no layer was quantized."""
    layers: list[Mapping[str, Any]] = []
    for layer in found.certificate.health:
        after = layer.get("after")
        if isinstance(after, Mapping):
            figures = {f"{key}_db": after.get(f"int8_{key}_db") for key in ("tensor", "channel", "worst_channel")}
            layers.append({"layer": layer.get("layer"), "operator": "fused block", **figures})
    return layers


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _text(value: object) -> str:
    number = _number(value)
    return "" if number is None else f"{number:.1f}"
