"""Prove a replacement by running a random and a zero input through the old and the new operators in float64.

Both are affine, so that a difference that is nonzero anywhere is nonzero at a random point; the zero input isolates the
bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor

from irepdeploy.errors import one_line
from irepdeploy.onnx_collapse.builder import Built
from irepdeploy.onnx_collapse.context import Array, Context
from irepdeploy.onnx_collapse.form import Form
from irepdeploy.onnx_collapse.interpreter import evaluate
from irepdeploy.onnx_collapse.operators import rule_of
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_collapse.unit import Unit

__all__ = ["INTERIOR", "Proof", "border_tolerance", "prove"]

INTERIOR = 1e-10
_BORDER = 1e-6
_FLOAT32 = 2.0**-24
# Number of outputs to compute beyond the reach of the windows; the interior of larger maps reveals nothing new.
_MARGIN = 4
# The most numbers that a proof may read, and the most MACs of a proof on whole maps.
_LARGEST, _MOST_MACS = 1 << 28, 1 << 38


@dataclass(frozen=True)
class Proof:
    """Largest relative errors of a replacement, ``max|a - b| / max|a|``.

    Attributes:
        interior: Error at outputs whose windows do not cross the border, or None if there are none.
        border: Error at all other outputs, or None if there are none.
    """

    interior: float | None
    border: float | None


def border_tolerance(form: Form) -> float:
    """Return the tolerance at the border: 1e-10, or more if the file rounds border constants (1e-6 for float32)."""
    return max(INTERIOR, _BORDER * form.rounding / _FLOAT32) if form.residue else INTERIOR


def prove(unit: Unit, built: Built, context: Context, seed: int = 0) -> Proof:
    """Compare a unit with its replacement on seeded random inputs and on zeros, and raise Refusal if they differ."""
    shrunk = _shrink(unit, built, context)
    sizes: dict[str, tuple[int, ...]] = {}
    for form in built.forms.values():
        for source, term in form.terms.items():
            if source in built.forms:
                continue
            whole = zip(form.sizes[source], shrunk, term.axes, strict=True)
            height, width = (size - less * axis.stride for size, less, axis in whole)
            sizes[source] = (_batch(source, unit, context), term.channels_in, height, width)
    numbers = sum(map(math.prod, sizes.values()))
    if numbers > _LARGEST or (shrunk == (0, 0) and unit.before.macs > _MOST_MACS):
        raise Refusal(f"its proof would take {numbers:,} numbers and {unit.before.macs:,} MACs in float64")
    generator = torch.Generator().manual_seed(seed)
    random = {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in sizes.items()}
    zero = {name: torch.zeros_like(value) for name, value in random.items()}
    try:
        pairs = [_both(unit, built, context, feeds) for feeds in (random, zero)]
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise Refusal(f"its proof does not run: {one_line(error)}") from error
    interior: list[float] = []
    border: list[float] = []
    for name, form in built.forms.items():
        scale = max(float(old[name].abs().max()) for old, _ in pairs) or 1.0
        difference = torch.stack([(old[name] - new[name]).abs().amax((0, 1)) for old, new in pairs]).amax(0) / scale
        inside = _interior(form, shrunk)
        if bool(inside.any()):
            interior.append(_checked(difference[inside], INTERIOR, "inside the map", name))
        if not bool(inside.all()):
            border.append(_checked(difference[~inside], border_tolerance(form), "at the border", name))
    return Proof(max(interior, default=None), max(border, default=None))


def _checked(differences: Tensor, tolerance: float, where: str, name: str) -> float:
    error = float(differences.max())
    if not math.isfinite(error):
        raise Refusal(f"its proof failed: {name!r} holds NaN or infinity")
    if error > tolerance:
        raise Refusal(f"its proof failed: {name!r} differs {where} by {error:.1e}")
    return error


def _both(
    unit: Unit, built: Built, context: Context, feeds: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    def constant(name: str) -> Array | None:
        found = context.graph.constant(name)
        return None if found is None else found.wide

    old = evaluate([operator.node for operator in unit.operators], feeds, unit.results, constant)
    same = built.emitted.same
    nodes = [
        node
        for name in unit.results
        for node in built.emitted.nodes[name] or [onnx.helper.make_node("Identity", [same[name]], [name])]
    ]
    return old, evaluate(nodes, feeds, unit.results, built.emitted.arrays.get)


def _batch(source: str, unit: Unit, context: Context) -> int:
    """Return the batch size of the proof, which is 1 unless constants are written into every sample."""
    shape = context.graph.shape(source)
    return shape[0] if _positional(unit) and shape is not None and shape[0] is not None else 1


def _interior(form: Form, shrunk: tuple[int, int]) -> Tensor:
    """Return a bool map (H, W) that is True where no window of any term crosses the border."""
    found = torch.tensor(True)
    for source, term in form.terms.items():
        masks = []
        for axis, whole, less in zip(term.taps, form.sizes[source], shrunk, strict=True):
            size = whole - less * axis.stride
            at = np.arange(axis.outputs(size)) * axis.stride
            masks.append((at + axis.offsets[0] >= 0) & (at + axis.offsets[-1] < size))
        found = found & torch.from_numpy(masks[0][:, None] & masks[1])
    return found


def _shrink(unit: Unit, built: Built, context: Context) -> tuple[int, int]:
    """Return how many rows and columns of outputs the proof can omit and still cover all borders and the interior."""
    if len(built.forms) > 1 or _positional(unit):
        return 0, 0
    (form,) = built.forms.values()
    graph = context.graph
    added = (operator for operator in unit.operators if rule_of(operator.kind).adds_constants)
    constants = (graph.shape(name) or () for operator in added for name in operator.inputs if graph.is_constant(name))
    if not form.uniform or any(size != 1 for shape in constants for size in shape[-2:]):
        return 0, 0
    less = []
    for place in (0, 1):
        axes = {source: term.axes[place] for source, term in form.terms.items()}
        reach = max((axis.offsets[-1] - axis.offsets[0]) // axis.stride for axis in axes.values())
        most = [form.size[place] - (2 * reach + _MARGIN)]
        most += [form.sizes[source][place] // axis.stride - 2 * (reach + 1) for source, axis in axes.items()]
        less.append(max(min(most), 0))
    return less[0], less[1]


def _positional(unit: Unit) -> bool:
    return any(rule_of(operator.kind).positional for operator in unit.operators)
