"""The operators known to the collapse, with one rule each, registered by one line in `OPERATORS`."""

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

_NEVER_FOLDED = (
    "Bernoulli", "DequantizeLinear", "DynamicQuantizeLinear", "If", "Loop", "Multinomial", "QuantizeLinear",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Scan",
)  # fmt: skip

# Operators that onnx's reference implementation evaluates as ONNX Runtime does. LRN, MaxPool, LogSoftmax, Resize and
# others differ.
_BY_REFERENCE = (
    "Acos", "Acosh", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "CastLike", "Celu", "Clip", "Compress", "Cos", "Cosh", "CumSum", "DepthToSpace", "Det",
    "Einsum", "Elu", "Erf", "EyeLike", "Flatten", "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "GreaterOrEqual", "HardSigmoid", "HardSwish", "InstanceNormalization", "IsInf", "IsNaN",
    "LayerNormalization", "LeakyRelu", "LessOrEqual", "Log", "MeanVarianceNormalization", "Mish", "Mod", "NonZero",
    "OneHot", "PRelu", "Pow", "ReduceLogSum", "ReduceLogSumExp", "ReverseSequence", "Round", "Selu", "Shrink", "Sign",
    "Sin", "Sinh", "Softplus", "Softsign", "SpaceToDepth", "Tan", "ThresholdedRelu", "Tile", "TopK", "Trilu", "Unique",
    "Xor",
)  # fmt: skip

# Keyed by operator type, prefixed by the domain ("domain::Type") if it is not ONNX's own.
OPERATORS: dict[str, OperatorRule] = {
    "Abs": c.Function(np.abs),
    "Add": Sum(),
    "And": c.Function(np.logical_and),
    "AveragePool": AveragePool(),
    "BatchNormalization": BatchNormalization(),
    "Cast": c.Cast(),
    "Ceil": c.Function(np.ceil),
    "Concat": Concat(),
    "Constant": c.Constant(),
    "ConstantOfShape": c.Folded(c.constant_of_shape),
    "Conv": Conv(),
    "ConvTranspose": Refused("a transposed convolution is not one convolution of its input", convolution=True),
    "DeformConv": Refused("a deformable convolution reads at positions that depend on its input"),
    "Div": Div(),
    "Dropout": Dropout(),
    "Equal": c.Function(np.equal),
    "Exp": c.Function(np.exp),
    "Expand": c.Folded(c.expand),
    "Floor": c.Function(np.floor),
    "Gather": c.Gather(),
    "Greater": c.Function(np.greater),
    "Identity": Identity(),
    "Less": c.Function(np.less),
    "MatMul": c.Folded(lambda inputs, attributes: np.matmul(*inputs)),
    "Max": c.Variadic(np.maximum),
    "Mean": Mean(),
    "Min": c.Variadic(np.minimum),
    "Mul": Mul(),
    "Neg": Neg(),
    "Not": c.Function(np.logical_not),
    "Or": c.Function(np.logical_or),
    "Pad": Pad(),
    "Range": c.Folded(c.number_range),
    "Reciprocal": c.Function(lambda x: 1 / x),
    "ReduceL1": c.Reduction(lambda x, **options: np.sum(np.abs(x), **options)),
    "ReduceL2": c.Reduction(c.norm),
    "ReduceMax": c.Reduction(np.max),
    "ReduceMean": c.Reduction(np.mean),
    "ReduceMin": c.Reduction(np.min),
    "ReduceProd": c.Reduction(np.prod),
    "ReduceSum": c.Reduction(np.sum),
    "ReduceSumSquare": c.Reduction(lambda x, **options: np.sum(x * x, **options)),
    "Relu": c.Function(lambda x: np.maximum(x, 0)),
    "Reshape": c.Folded(c.reshape),
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
    **dict.fromkeys(_BY_REFERENCE, OperatorRule()),
    **dict.fromkeys(_NEVER_FOLDED, c.NeverFolded()),
}
_UNKNOWN = c.NeverFolded()


def rule_of(kind: str) -> OperatorRule:
    """Return the rule of an operator type; unregistered operators are neither linear nor folded."""
    return OPERATORS.get(kind, _UNKNOWN)
