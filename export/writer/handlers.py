"""Table of operators: the handler of each function, method and module of torch.

A handler takes an `Emitter` and the arguments of the operator, named as in torch, with a `Value` for every tensor. It
returns the resulting `Value`, or a tuple of them. To add an operator, write its handler and add one line to the table.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from . import activations, arithmetic, indexing, layers, logic, pools, resize, shapes
from .graph import Value

__all__ = ["BY_SHAPE", "FUNCTIONS", "MODULES", "PASSED_THROUGH", "handler_of"]

Handler = Callable[..., Value | tuple[Value, ...]]

_UNARY = {
    "Acos": (torch.acos, "acos"),
    "Asin": (torch.asin, "asin"),
    "Atan": (torch.atan, "atan"),
    "Abs": (torch.abs, "abs"),
    "Ceil": (torch.ceil, "ceil"),
    "Cos": (torch.cos, "cos"),
    "Erf": (torch.erf, "erf"),
    "Exp": (torch.exp, "exp"),
    "Floor": (torch.floor, "floor"),
    "Log": (torch.log, "log"),
    "Neg": (operator.neg, torch.neg, "neg"),
    "Relu": (F.relu, torch.relu, "relu"),
    "Selu": (F.selu, torch.selu),
    "Sigmoid": (torch.sigmoid, F.sigmoid, torch.special.expit, "sigmoid"),
    "Sin": (torch.sin, "sin"),
    "Softsign": (F.softsign,),
    "Sign": (torch.sign, torch.sgn, "sign", "sgn"),
    "Sqrt": (torch.sqrt, "sqrt"),
    "Tan": (torch.tan, "tan"),
    "Tanh": (torch.tanh, F.tanh, "tanh"),
}

_TABLE: tuple[tuple[Handler, tuple[object, ...]], ...] = (
    *((arithmetic.unary(kind), names) for kind, names in _UNARY.items()),
    (arithmetic.add, (operator.add, operator.iadd, torch.add, "add")),
    (arithmetic.subtract, (operator.sub, operator.isub, torch.sub, torch.subtract, "sub")),
    (lambda emit, input, other, **kwargs: arithmetic.subtract(emit, other, input, **kwargs), (torch.rsub,)),
    (arithmetic.multiply, (operator.mul, operator.imul, torch.mul, torch.multiply, "mul")),
    (arithmetic.divide, (operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide, "div")),
    (arithmetic.divide, ("true_divide",)),
    (logic.floor_divide, (operator.floordiv, operator.ifloordiv, torch.floor_divide, "floor_divide")),
    (logic.remainder, (operator.mod, operator.imod, torch.remainder, "remainder")),
    (logic.fmod, (torch.fmod, "fmod")),
    (logic.compare("Equal"), (operator.eq, torch.eq, "eq")),
    (logic.compare("Equal", negated=True), (operator.ne, torch.ne, torch.not_equal, "ne", "not_equal")),
    (logic.compare("Less"), (operator.lt, torch.lt, torch.less, "lt", "less")),
    (logic.compare("LessOrEqual"), (operator.le, torch.le, torch.less_equal, "le", "less_equal")),
    (logic.compare("Greater"), (operator.gt, torch.gt, torch.greater, "gt", "greater")),
    (logic.compare("GreaterOrEqual"), (operator.ge, torch.ge, torch.greater_equal, "ge", "greater_equal")),
    (logic.logical("And"), (torch.logical_and, "logical_and")),
    (logic.logical("Or"), (torch.logical_or, "logical_or")),
    (logic.logical("Xor"), (torch.logical_xor, "logical_xor")),
    (logic.logical("Not"), (torch.logical_not, "logical_not")),
    (logic.logical("And", of_bits=True), (operator.and_, operator.iand, torch.bitwise_and, "bitwise_and")),
    (logic.logical("Or", of_bits=True), (operator.or_, operator.ior, torch.bitwise_or, "bitwise_or")),
    (logic.logical("Xor", of_bits=True), (operator.xor, operator.ixor, torch.bitwise_xor, "bitwise_xor")),
    (logic.logical("Not", of_bits=True), (operator.invert, torch.bitwise_not, "bitwise_not")),
    (logic.where, (torch.where,)),
    (lambda emit, input, condition, other: logic.where(emit, condition, input, other), ("where",)),
    (logic.masked_fill, (torch.masked_fill, "masked_fill")),
    (logic.is_nan, (torch.isnan, "isnan")),
    (logic.one_hot, (F.one_hot,)),
    (logic.holds("ReduceMax"), (torch.any, "any")),
    (logic.holds("ReduceMin"), (torch.all, "all")),
    (indexing.topk, (torch.topk, "topk")),
    (indexing.sort, (torch.sort, "sort")),
    (indexing.argsort, (torch.argsort, "argsort")),
    (indexing.gather, (torch.gather, "gather")),
    (indexing.take_along_dim, (torch.take_along_dim, "take_along_dim")),
    (indexing.index_select, (torch.index_select, "index_select")),
    (indexing.cumsum, (torch.cumsum, "cumsum")),
    (indexing.grid_sample, (F.grid_sample,)),
    (arithmetic.power, (operator.pow, operator.ipow, torch.pow, "pow")),
    (lambda emit, input: arithmetic.multiply(emit, input, input), (torch.square, "square")),
    (lambda emit, input: arithmetic.divide(emit, 1.0, input), (torch.reciprocal, "reciprocal")),
    (arithmetic.rsqrt, (torch.rsqrt, "rsqrt")),
    (arithmetic.log2, (torch.log2, "log2")),
    (arithmetic.matmul, (operator.matmul, torch.matmul, torch.bmm, torch.mm, "matmul", "bmm", "mm")),
    (arithmetic.einsum, (torch.einsum,)),
    (arithmetic.attention, (F.scaled_dot_product_attention,)),
    (activations.clamp, (torch.clamp, torch.clip, F.hardtanh, "clamp", "clip")),
    (lambda emit, input, min: activations.clamp(emit, input, min), (torch.clamp_min, "clamp_min")),
    (lambda emit, input, max: activations.clamp(emit, input, None, max), (torch.clamp_max, "clamp_max")),
    (activations.relu6, (F.relu6,)),
    (activations.leaky_relu, (F.leaky_relu,)),
    (activations.prelu, (F.prelu, torch.prelu)),
    (activations.elu, (F.elu,)),
    (activations.hardsigmoid, (F.hardsigmoid,)),
    (activations.hardswish, (F.hardswish,)),
    (activations.silu, (F.silu,)),
    (activations.mish, (F.mish,)),
    (activations.gelu, (F.gelu,)),
    (activations.softplus, (F.softplus,)),
    (activations.glu, (F.glu,)),
    (activations.log_sigmoid, (F.logsigmoid,)),
    (activations.rrelu, (F.rrelu, torch.rrelu)),
    (activations.softshrink, (F.softshrink,)),
    (activations.hardshrink, (F.hardshrink, torch.hardshrink)),
    (activations.celu, (F.celu, torch.celu)),
    (activations.tanhshrink, (F.tanhshrink,)),
    (activations.threshold, (F.threshold, torch.threshold)),
    (activations.softmax("Softmax"), (F.softmax, torch.softmax, "softmax")),
    (activations.softmax("LogSoftmax"), (F.log_softmax, torch.log_softmax, "log_softmax")),
    (pools.mean, (torch.mean, "mean")),
    (arithmetic.total, (torch.sum, "sum")),
    (arithmetic.product, (torch.prod, "prod")),
    (arithmetic.spread(root=False), (torch.var, "var")),
    (arithmetic.spread(root=True), (torch.std, "std")),
    (arithmetic.logsumexp, (torch.logsumexp, "logsumexp")),
    (arithmetic.norm, (torch.norm, torch.linalg.vector_norm, "norm")),
    (arithmetic.extremum("Max"), (torch.amax, torch.max, torch.maximum, "amax", "max", "maximum")),
    (arithmetic.extremum("Min"), (torch.amin, torch.min, torch.minimum, "amin", "min", "minimum")),
    (arithmetic.argmax("ArgMax"), (torch.argmax, "argmax")),
    (arithmetic.argmax("ArgMin"), (torch.argmin, "argmin")),
    (arithmetic.layer_norm, (F.layer_norm,)),
    (arithmetic.rms_norm, (F.rms_norm,)),
    (arithmetic.group_norm, (F.group_norm,)),
    (arithmetic.normalize, (F.normalize,)),
    (activations.dropout, (F.dropout, F.dropout2d, F.alpha_dropout)),
    (shapes.cat, (torch.cat, torch.concat, torch.concatenate)),
    (shapes.stack, (torch.stack,)),
    (shapes.split, (torch.chunk, torch.split, torch.tensor_split, "chunk", "split", "tensor_split")),
    (shapes.unbind, (torch.unbind, "unbind")),
    (indexing.getitem, (operator.getitem,)),
    (shapes.reshape, (torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.unflatten)),
    (shapes.reshape, ("flatten", "view", "view_as", "reshape", "reshape_as", "squeeze", "unsqueeze", "unflatten")),
    (shapes.permute, (torch.permute, "permute")),
    (shapes.transpose, (torch.transpose, torch.swapaxes, torch.swapdims, torch.t)),
    (shapes.transpose, ("transpose", "swapaxes", "swapdims", "t")),
    (shapes.attribute_of, (getattr,)),
    (shapes.expand, ("expand", "expand_as", torch.broadcast_to, "broadcast_to")),
    (shapes.repeat, ("repeat", torch.tile, "tile")),
    (resize.pad, (F.pad,)),
    (shapes.flip, (torch.flip, "flip")),
    (shapes.movedim, (torch.movedim, torch.moveaxis, "movedim", "moveaxis")),
    (shapes.roll, (torch.roll, "roll")),
    (resize.interpolate, (F.interpolate, F.upsample)),
    (shapes.pixel_shuffle, (F.pixel_shuffle, torch.pixel_shuffle)),
    (shapes.pixel_unshuffle, (F.pixel_unshuffle, torch.pixel_unshuffle)),
    (shapes.channel_shuffle, (F.channel_shuffle, torch.channel_shuffle)),
    (shapes.cast, ("to", "float", "double", "half", "int", "long", "bool", "type", "type_as", "cpu", "cuda")),
    (shapes.unchanged, ("contiguous", "clone", "detach", torch.clone, torch.detach)),
    (layers.conv_function, (F.conv1d, F.conv2d, F.conv3d)),
    (layers.conv_transpose_function, (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)),
    (layers.linear_function, (F.linear,)),
    (layers.batch_norm_function, (F.batch_norm,)),
    (pools.max_pool, (F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d)),
    (pools.avg_pool, (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)),
    (pools.adaptive_avg_pool, (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)),
    (pools.adaptive_max_pool, (F.adaptive_max_pool1d, F.adaptive_max_pool2d)),
)

FUNCTIONS: dict[object, Handler] = {key: handler for handler, keys in _TABLE for key in keys}

# Operators that are written from the shape of their result alone, so their arguments may depend on the batch.
BY_SHAPE: set[object] = {key for handler, keys in _TABLE if handler in (shapes.reshape, shapes.expand) for key in keys}


def _as_function(function: object, *names: str) -> Handler:
    """Return the handler of a module that applies `function` to its input and to these of its attributes."""
    handler = FUNCTIONS[function]
    return lambda emit, module, x: handler(emit, x, *(getattr(module, name) for name in names))


_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

# All other modules of torch are traced into the functions they call.
MODULES: dict[type[nn.Module], Handler] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), layers.conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), layers.conv_transpose),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), layers.batch_norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d), arithmetic.instance_norm),
    **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d), lambda emit, module, x: x),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _as_function(F.max_pool2d, *_MAX_POOL)),
    **dict.fromkeys((nn.AvgPool2d, nn.AvgPool3d), _as_function(F.avg_pool2d, *_AVG_POOL, "divisor_override")),
    nn.AvgPool1d: _as_function(F.avg_pool1d, *_AVG_POOL),
    **dict.fromkeys(
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        _as_function(F.adaptive_avg_pool2d, "output_size"),
    ),
    nn.AdaptiveMaxPool2d: _as_function(F.adaptive_max_pool2d, "output_size", "return_indices"),
    nn.Linear: layers.linear,
    nn.Embedding: layers.embedding,
    nn.ReLU: _as_function(F.relu),
    nn.Flatten: _as_function(torch.flatten),
    nn.Unflatten: _as_function(torch.flatten),
}

# Identities in eval mode: a batch normalization after one can still be folded.
PASSED_THROUGH: set[object] = {nn.Identity, nn.Dropout, nn.Dropout2d, F.dropout, "contiguous"}


def handler_of(target: object) -> Handler | None:
    """Return the handler of a function or method; an in-place variant shares that of its counterpart."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if isinstance(target, str) and name.startswith("__") and target not in FUNCTIONS:
        # Python's operators call __add__ for a tensor on the left, and __radd__ for one on the right.
        if hasattr(operator, name):
            return FUNCTIONS.get(getattr(operator, name))
        turned = FUNCTIONS.get(getattr(operator, f"__{name[3:]}", None)) if name.startswith("__r") else None
        return None if turned is None else lambda emit, input, other: turned(emit, other, input)
    if target not in FUNCTIONS and name.endswith("_") and not name.endswith("__"):
        return FUNCTIONS.get(name[:-1])
    return FUNCTIONS.get(target)
