"""ONNX operators that the parsers of TensorRT accept, by version.

8.5, 8.6 and 10 list the operators found in both the support matrix and the source of onnx-tensorrt, on its branches
8.5-GA, 8.6-GA and 10.0-GA. 11 is from the parser itself (``OnnxParser.supports_operator`` of TensorRT 11.4). Operators
for which the sources are inconclusive are omitted.
"""

from __future__ import annotations

__all__ = ["TENSORRT_8_5", "TENSORRT_8_6", "TENSORRT_10", "TENSORRT_11"]

_8_5 = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip
    Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout
    Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool
    GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish Identity If
    InstanceNormalization IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization LpPool
    MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu
    Pad Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round Scan Scatter ScatterElements ScatterND Selu
    Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum
    Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
_NEW_IN_10 = "CastLike Gelu Hardmax Mish"
_NEW_IN_11 = """
    Attention BlackmanWindow CausalConvWithState HammingWindow HannWindow LinearAttention RMSNormalization
    RotaryEmbedding STFT Swish TensorScatter
"""

TENSORRT_8_5 = frozenset(_8_5.split())
TENSORRT_8_6 = TENSORRT_8_5 | {"GroupNormalization", "IsInf", "LayerNormalization"}
TENSORRT_10 = TENSORRT_8_6 | frozenset(_NEW_IN_10.split())
TENSORRT_11 = TENSORRT_10 | frozenset(_NEW_IN_11.split())
