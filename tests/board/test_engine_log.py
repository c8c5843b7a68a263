"""Build logs in the form of TensorRT-RTX, which ran here, and of TensorRT 8, which did not."""

from __future__ import annotations

from irepdeploy.board.engine_log import dla_placement, engine_layers

# As TensorRT-RTX 1.7.1 writes it, shortened inside the brackets.
STEM = (
    "Name: stem.conv_U3_myl0_1, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,3,16,16], Datatype: Half, "
    "Format: (NHWC) Channel major format }], Constants: [ { Name: c, Datatype: Float }], Outputs: [ { Name: a, "
    "Datatype: Half }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: stem.conv]"
)
MOVE = "Name: __myl_Move_myl0_0, LayerType: kgen, Inputs: [ { Name: x, Datatype: Float }], Outputs: []"
FUSED = "Name: __myl_CorrMulAddReluCorrAdd_myl0_2, LayerType: runtime_fusion, Inputs: [ { Name: a, Datatype: Int8 }]"
# A user's layer may be called anything.
NAMED = "Name: Correlate_U9_myl0_3, LayerType: gemm, Inputs: [ { Name: b, Datatype: Half }]"
# As logs of TensorRT 8 that people have published.
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
