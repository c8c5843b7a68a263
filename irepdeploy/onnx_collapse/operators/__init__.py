"""The operators that the collapse knows: one rule each, registered by one line of `OPERATORS`."""

from __future__ import annotations

import numpy as np

from irepdeploy.onnx_collapse.operators import constants as c
from irepdeploy.onnx_collapse.operators.channels import Concat, Slice, Split, Transpose
from irepdeploy.onnx_collapse.operators.elementwise import (
    BatchNormalization,
    Div,
    Dropout,
    Identity,
    Mean,
    Mul,
    Neg,
    Sub,
    Sum,
)
from irepdeploy.onnx_collapse.operators.rule import OperatorRule, Refused
from irepdeploy.onnx_collapse.operators.scatter import ScatterElements, ScatterND
from irepdeploy.onnx_collapse.operators.windows import AveragePool, Conv, Pad

__all__ = ["OPERATORS", "OperatorRule", "rule_of"]

# By operator type, with the domain before it ("domain::Type") if it is not one of ONNX's own.
OPERATORS: dict[str, OperatorRule] = {
    "Abs": c.Function(np.abs),
    "Add": Sum(),
    "And": c.Function(np.logical_and),
    "AveragePool": AveragePool(),
    "BatchNormalization": BatchNormalization(),
    "Bernoulli": c.NeverFolded(),
    "Cast": c.Cast(),
    "Ceil": c.Function(np.ceil),
    "Concat": Concat(),
    "Constant": c.Constant(),
    "ConstantOfShape": c.Folded(c.constant_of_shape),
    "Conv": Conv(),
    "ConvTranspose": Refused("a transposed convolution is not one convolution of its input", convolution=True),
    "DeformConv": Refused("a deformable convolution reads where its input says"),
    "DequantizeLinear": c.NeverFolded(),
    "Div": Div(),
    "Dropout": Dropout(),
    "DynamicQuantizeLinear": c.NeverFolded(),
    "Equal": c.Function(np.equal),
    "Exp": c.Function(np.exp),
    "Expand": c.Folded(c.expand),
    "Floor": c.Function(np.floor),
    "Gather": c.Gather(),
    "Greater": c.Function(np.greater),
    "Identity": Identity(),
    "If": c.NeverFolded(),
    "Less": c.Function(np.less),
    "Loop": c.NeverFolded(),
    "Max": c.Variadic(np.maximum),
    "Mean": Mean(),
    "Min": c.Variadic(np.minimum),
    "Mul": Mul(),
    "Multinomial": c.NeverFolded(),
    "Neg": Neg(),
    "Not": c.Function(np.logical_not),
    "Or": c.Function(np.logical_or),
    "Pad": Pad(),
    "QuantizeLinear": c.NeverFolded(),
    "RandomNormal": c.NeverFolded(),
    "RandomNormalLike": c.NeverFolded(),
    "RandomUniform": c.NeverFolded(),
    "RandomUniformLike": c.NeverFolded(),
    "Range": c.Folded(c.number_range),
    "Reciprocal": c.Function(lambda x: 1 / x),
    "Relu": c.Function(lambda x: np.maximum(x, 0)),
    "Reshape": c.Folded(c.reshape),
    "Scan": c.NeverFolded(),
    "ScatterElements": ScatterElements(),
    "ScatterND": ScatterND(),
    "Shape": c.Shape(),
    "Sigmoid": c.Function(c.sigmoid),
    "Size": c.Size(),
    "Slice": Slice(),
    "Softmax": c.Folded(c.softmax, since=13),
    "Split": Split(),
    "Sqrt": c.Function(np.sqrt),
    "Squeeze": c.Folded(c.squeeze),
    "Sub": Sub(),
    "Sum": Sum(),
    "Tanh": c.Function(np.tanh),
    "Transpose": Transpose(),
    "Unsqueeze": c.Folded(c.unsqueeze),
    "Where": c.Function(np.where),
}
_UNKNOWN = OperatorRule()


def rule_of(kind: str) -> OperatorRule:
    """Return the rule of an operator type; one that is not registered is not linear, and folds as onnx evaluates it."""
    return OPERATORS.get(kind, _UNKNOWN)
