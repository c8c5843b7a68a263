"""Build logs in the format of TensorRT-RTX, as observed here, and of TensorRT 8.5 to 11, as published."""

from __future__ import annotations

import pytest

from irepdeploy.board.engine_log import dla_placement, engine_layers

# As TensorRT-RTX 1.7.1 writes it, shortened inside the brackets.
STEM = (
    "Name: stem.conv_U3_myl0_1, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,3,16,16], Datatype: Half, "
    "Format: (NHWC) Channel major format }], Constants: [ { Name: c, Datatype: Float }], Outputs: [ { Name: a, "
    "Datatype: Half }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: stem.conv]"
)
MOVE = "Name: __myl_Move_myl0_0, LayerType: kgen, Inputs: [ { Name: x, Datatype: Float }], Outputs: []"
FUSED = "Name: __myl_CorrMulAddReluCorrAdd_myl0_2, LayerType: runtime_fusion, Inputs: [ { Name: a, Datatype: Int8 }]"
# A user's layer may have any name.
NAMED = "Name: Correlate_U9_myl0_3, LayerType: gemm, Inputs: [ { Name: b, Datatype: Half }]"
# As in published logs of TensorRT 8.
CLASSIC = (
    "Engine Layer Information:\n"
    "Layer(Reformat): Reformatting CopyNode for Input Tensor 0, Tactic: 0x3e8, x[Float(1,3,8,8)] -> r[Half(1,3,8,8)]\n"
    "Layer(CaskConvolution): conv1 + relu1, Tactic: 0x5deb29b7a8e275f7, r[Half(1,3,8,8)] -> a[Half(1,16,8,8)]\n"
    "Layer(CaskConvolution): conv2, Tactic: 0x1, a[Half(1,16,8,8)] -> y[Float(1,16,8,8)]"
)


def test_a_list_in_one_message() -> None:
    layers = engine_layers([("VERBOSE", "Layers:\n" + "\n".join((MOVE, STEM, FUSED, NAMED)))])
    assert layers.convolutions == 3
    assert layers.convolution_inputs == {"Half": 1, "Int8": 2}
    assert layers.layers == {"correlation": 1, "gemm": 1, "kgen": 1, "runtime_fusion": 1}


def test_a_list_over_several_messages() -> None:
    layers = engine_layers([("VERBOSE", text) for text in ("Layers:", MOVE, STEM, "something else", FUSED)])
    assert layers.convolutions == 3


def test_the_last_list_is_the_engines() -> None:
    whole, less = "\n".join((STEM, FUSED)), "\n".join((STEM, MOVE))
    assert engine_layers([("VERBOSE", whole), ("VERBOSE", less)]).convolutions == 1


def test_the_older_list() -> None:
    layers = engine_layers([("VERBOSE", CLASSIC)])
    assert layers.convolutions == 2 and layers.convolution_inputs == {"Half": 2}
    assert layers.layers == {"CaskConvolution": 2, "Reformat": 1}


# One line each of the logs in these threads of github.com/NVIDIA/TensorRT, shortened after the tensors. Which of the
# two forms around it 10.3 has is not published: both are here.
PUBLISHED = {
    # 2418: the engine inspector, in the words that the log has too.
    "8.5 detailed": (
        "Name: Conv_6 + Relu_7, LayerType: CaskConvolution, Inputs: [ { Name: input.12, Location: Device, Dimensions: "
        "[1,64,540,960], Format/Datatype: Channel major FP16 format where channel % 8 == 0 }], Outputs: [ { Name: y, "
        'Format/Datatype: Row major linear FP32 }], ParameterType: Convolution, Weights: {"Type": "Half"}',
        "Half",
    ),
    "8.5 detailed, fp32": (
        "Name: Conv_0, LayerType: CudnnConvolution, Inputs: [ { Name: x, Location: Device, Dimensions: [1,3,8,8], "
        "Format/Datatype: Row major linear FP32 }], Outputs: [ { Name: y, Format/Datatype: Row major linear FP16 "
        "format }]",
        "Float",
    ),
    # 1437
    "8.5 names only": (
        "Layer(CaskConvolution): conv1 + relu1, Tactic: 0x5deb29b7a8e275f7, r[Half(1,3,8,8)] -> a[Float(1,16,8,8)]",
        "Half",
    ),
    # 3737, and the same words in 4020 from 10.1
    "8.6 and 10.1 detailed, int8": (
        "Name: resnetv15_stage3_conv4_fwd, LayerType: CaskConvolution, Inputs: [ { Name: FP16_in, Location: Device, "
        "Dimensions: [1,256,14,14], Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], "
        "Outputs: [ { Name: y, Format/Datatype: Channel major FP16 format where channel % 8 == 0 }]",
        "Int8",
    ),
    # 3583
    "9.1 detailed": (
        "Name: p2o.Conv.20 + p2o.Relu.18, LayerType: CaskGemmConvolution, Inputs: [ { Name: relu_17.tmp_0, Location: "
        "Device, Dimensions: [6,128,60,92], Format/Datatype: Channel major FP32 format where channel % 4 == 0 }, "
        "{ Name: relu_15.tmp_0, Dimensions: [6,512,60,92], Format/Datatype: Channel major FP16 format where channel "
        "% 8 == 0 }], Outputs: [ ]",
        "Float",
    ),
    "10.3 detailed, in the words of 10.1": (
        "Name: conv, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, Dimensions: [1,3,8,8], "
        "Format/Datatype: Channel major FP16 format where channel % 8 == 0 }]",
        "Half",
    ),
    # 4397, from 10.10
    "10.3 and 10.10 detailed": (
        "Name: conv, LayerType: CaskConvolution, Inputs: [ { Name: x, Dimensions: [1,3,8,8], Format/Datatype: Half }]",
        "Half",
    ),
    "10.10 names only": (
        "Layer(CaskConvolution): conv, Tactic: 0x0000000000000000, Reformatted Output Tensor 0 (Int8[1,3,8,8]), b "
        "(Float[1]) -> score (Float[1])",
        "Int8",
    ),
    "10.10 names only, dynamic": (
        "Layer(CaskConvolution): conv, Tactic: 0x1, x (Half[-1,3,8,8]) -> y (Float[-1,4])",
        "Half",
    ),
    "11 detailed": (STEM, "Half"),
    "11 detailed, bf16": (STEM.replace("Half", "BFloat16"), "BFloat16"),
}


@pytest.mark.parametrize(("line", "datatype"), PUBLISHED.values(), ids=PUBLISHED)
@pytest.mark.parametrize("head", ["Engine Layer Information:\n", "Layers:\n", ""])
def test_the_precision_of_a_convolution_is_that_of_its_input(line: str, datatype: str, head: str) -> None:
    layers = engine_layers([("VERBOSE", head + line)])
    assert (layers.convolutions, layers.convolution_inputs) == (1, {datatype: 1})


def test_a_precision_that_is_not_told_is_unknown() -> None:
    line = "Name: conv, LayerType: CaskConvolution, Inputs: [ { Name: FP16, Dimensions: [1] }], Outputs: []"
    assert engine_layers([("VERBOSE", line)]).convolution_inputs == {"unknown": 1}


def test_no_list_is_not_no_convolution() -> None:
    assert engine_layers([("INFO", "Total Weights Memory: 12 bytes")]).to_dict() == {"weights_bytes": 12}
    assert engine_layers([("VERBOSE", "Layers:\n" + MOVE + "\n" + MOVE)]).convolutions == 0


def test_memory() -> None:
    messages = [
        ("INFO", "Total Activation Memory: 8225792 bytes"),
        ("INFO", "Total Weights Memory: 290240 bytes"),
        ("INFO", "Max Scratch Memory: 17 bytes"),
    ]
    assert engine_layers(messages).to_dict() == {
        "weights_bytes": 290240,
        "activation_bytes": 8225792,
        "scratch_bytes": 17,
    }


def test_dla() -> None:
    messages = [
        ("INFO", "---------- Layers Running on DLA ----------"),
        ("INFO", "[DlaLayer] {ForeignNode[conv1...relu9]}"),
        ("INFO", "---------- Layers Running on GPU ----------"),
        ("INFO", "[GpuLayer] SHUFFLE: flatten"),
        ("INFO", "[GpuLayer] MATRIX_MULTIPLY: head"),
    ]
    assert dla_placement(messages) == {"dla_subgraphs": 1, "gpu_layers": 2}
