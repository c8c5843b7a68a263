"""Base classes of operator rules, which define how the collapse recognizes, evaluates, folds and costs an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from irepdeploy.errors import one_line
from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.form import Form, Linear, apply
from irepdeploy.onnx_collapse.graph import Array, Graph, Operator
from irepdeploy.onnx_collapse.refusal import Refusal

__all__ = ["Attributes", "Fold", "OperatorRule", "Refused", "StencilRule", "integers"]

Attributes = Mapping[str, Any]
Fold = Callable[[Sequence[Any], Attributes], Any]

# Errors that attributes and constants of a damaged file cause.
_UNREADABLE = (IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)


class OperatorRule:
    """Rule for one kind of operator; this base class treats operators as non-linear.

    A linear rule sets `linear` and implements `forms` and `evaluate`. The proof of a region compares the two, so they
    must share no code, and a mistake in one is detected by the other.

    Attributes:
        linear: Whether such operators can be part of a region.
        reason: Why they cannot, if a report should say so.
        reads_all: Whether every computed input is a feature map, instead of only the first input.
        per_element: Whether an output element depends on one element of each map, so that merging enlarges no kernel.
        moves: Whether the operator only reorders or overwrites elements, so that it is merged with later operators.
        positional: Whether the operator addresses absolute positions, so that proofs need whole maps and batches.
        adds_constants: Whether the operator adds constant inputs, which may vary with the position.
        convolution: Whether the operator counts as a convolution in costs.
        reported_from: Size of the smallest adjacent region that reports why this operator is not part of it.
        border_reason: Why the operator prevents a region from being a convolution at the border; follows the name of
            the operator.
        selects: Whether each output element is an element of the input, so that sizes selected from a Shape can be
            folded even if other sizes are dynamic.
        foldable: Whether the output is a function of the inputs, and the operator does not exist to keep a weight
            small.
        fold: Function that computes the output of constant inputs in numpy, as ``fold(inputs, attributes)``. None uses
            onnx's reference implementation, which is slow.
        fold_since: Oldest opset in which the operator has the folded meaning.
    """

    linear: bool = False
    reason: str = ""
    reads_all: bool = False
    per_element: bool = False
    moves: bool = False
    positional: bool = False
    adds_constants: bool = False
    convolution: bool = False
    reported_from: float = float("inf")
    border_reason: str = "adds a constant that differs by position"
    selects: bool = False
    foldable: bool = True
    fold: Fold | None = None
    fold_since: int = 7

    def maps(self, operator: Operator, context: Context) -> list[str]:
        """Return the names of the inputs that are feature maps."""
        if self.reads_all:
            return [name for name in operator.inputs if not context.graph.is_constant(name)]
        return [operator.inputs[0]]

    def obstacle(self, operator: Operator, context: Context) -> str | None:
        """Return why the operator cannot be part of any region, or None if it may be."""
        try:
            if not self.linear:
                return self.reason
            self.check(operator, {name: context.form(name) for name in self.maps(operator, context)}, context)
        except Refusal as refusal:
            return refusal.reason
        except _UNREADABLE as error:
            return _unreadable(error)
        return None

    def check(self, operator: Operator, forms: Mapping[str, Form], context: Context) -> None:
        """Check the operator alone, with its maps as sources, and raise Refusal if it fits no region."""
        self.apply(operator, forms, context)

    def apply(self, operator: Operator, forms: Mapping[str, Form], context: Context) -> dict[str, Form]:
        """Return the forms of the outputs, given those of the maps, or raise Refusal if the operator is damaged."""
        try:
            names = self.maps(operator, context)
            if not names or any(name not in forms for name in names):
                raise Refusal("it reads no map", [])
            return self.forms(operator, [forms[name] for name in names], context)
        except _UNREADABLE as error:
            raise Refusal(_unreadable(error)) from error

    def forms(self, operator: Operator, forms: Sequence[Form], context: Context) -> dict[str, Form]:
        """Compute the forms of the outputs by name.

        Args:
            operator: The operator.
            forms: Forms of the inputs that `maps` returns, in order.
            context: The graph.

        Raises:
            Refusal: The operator is not linear and shift-invariant here.
        """
        raise NotImplementedError

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor | tuple[Tensor, ...]:
        """Run the operator in float64 according to the ONNX specification.

        Args:
            inputs: Float64 maps (N, C, H, W) and constants, with None for an omitted input.
            attributes: Attributes of the node, and the number of its outputs as ``outputs``.
        """
        raise NotImplementedError

    def macs(self, operator: Operator, written: int, context: Context) -> int:
        """Return the MACs of one sample, given its number of output elements."""
        return 0

    def known(self, operator: Operator, graph: Graph) -> Array | None:
        """Return the output if it is known without constant inputs, or None."""
        return None

    def fold_wide(self, inputs: Sequence[Any], attributes: Attributes) -> Any:
        """Fold with every float in float64; the result is kept in addition to that in the model's own types."""
        assert self.fold is not None
        return self.fold(inputs, attributes)


class StencilRule(OperatorRule):
    """Rule for an operator that reads one map and equals one stencil and a bias."""

    linear = True

    def stencil(self, operator: Operator, form: Form, context: Context) -> Linear:
        """Return the operator as a stencil with its numbers.

        Raises:
            Refusal: The operator is not linear and shift-invariant.
        """
        raise NotImplementedError

    def forms(self, operator: Operator, forms: Sequence[Form], context: Context) -> dict[str, Form]:
        """Apply the stencil; without numbers it is computed only once, because planning needs it many times."""
        (form,) = forms
        if context.numeric:
            linear = self.stencil(operator, form, context)
        elif operator.index in context.structures:
            linear = context.structures[operator.index]
        else:
            whole = self.stencil(operator, form, context)
            linear = Linear(replace(whole.stencil, kernel=None), fill=whole.fill)
            context.structures[operator.index] = linear
        return {operator.outputs[0]: apply(linear, form)}


class Refused(OperatorRule):
    """Rule for an operator that multiplies and adds like a convolution but never collapses, with the reason."""

    reported_from = 1

    def __init__(self, reason: str, *, convolution: bool = False) -> None:
        self.reason, self.convolution = reason, convolution


def integers(inputs: Sequence[Any], place: int, attributes: Attributes, name: str) -> list[int] | None:
    """Return integers that are an attribute in old opsets and an input in new ones."""
    if name in attributes:
        return [int(item) for item in np.atleast_1d(attributes[name])]
    given = inputs[place] if len(inputs) > place else None
    return None if given is None else [int(item) for item in given.reshape(-1)]


def _unreadable(error: Exception) -> str:
    return f"it cannot be read: {type(error).__name__}: {one_line(error)}"
