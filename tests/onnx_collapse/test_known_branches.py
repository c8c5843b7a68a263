"""An If whose condition is known is replaced by the branch that it takes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from irepdeploy.onnx_collapse import collapse

# Both branches name their tensors alike; one reads a folded constant of the graph around it.
TWO = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[1, 4, 6, 5] x) => (float[1, 4, 6, 5] y, float[1, 4, 6, 5] z) {
    sizes = Shape (x)
    place = Constant <value_int = 1> ()
    channels = Gather (sizes, place)
    four = Constant <value_int = 4> ()
    two = Constant <value_float = 2.0> ()
    three = Add (two, two)
    yes = Equal (channels, four)
    no = Not (yes)
    a = If (yes) <
        then_branch = first () => (float[1, 4, 6, 5] r) <float factor = {3.0}> {
            m = Mul (x, factor)
            r = Add (m, three)
        },
        else_branch = second () => (float[1, 4, 6, 5] r) { r = Identity (x) }
    >
    y, z = If (no) <
        then_branch = third () => (float[1, 4, 6, 5] r, float[1, 4, 6, 5] s) { r, s = Split <axis = 1> (x) },
        else_branch = fourth () => (float[1, 4, 6, 5] r, float[1, 4, 6, 5] m) {
            m = Relu (a)
            r = If (yes) <
                then_branch = fifth () => (float[1, 4, 6, 5] r2) { r2 = Sub (m, x) },
                else_branch = sixth () => (float[1, 4, 6, 5] r3) { r3 = Neg (m) }
            >
        }
    >
}
"""


def outputs(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def test_branches_inside_each_other_and_of_the_same_names() -> None:
    model = onnx.parser.parse_model(TWO)
    found = collapse(model)
    assert "If" not in found.operators_after and found.changed
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 5), dtype=np.float32)
    for a, b in zip(outputs(model, x), outputs(found.model, x), strict=True):
        assert np.allclose(a, b, atol=1e-6) and a.any()
    names = [name for node in found.model.graph.node for name in node.output]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("condition", ["known", "default", "computed"])
def test_only_what_is_known_is_taken(condition: str) -> None:
    """The default value of an input is not known, and neither is what the model computes."""
    given = {"known": "", "default": ", bool[1] c", "computed": ""}[condition]
    fixed = "" if condition == "computed" else "<bool[1] c = {1}>"
    made = "total = ReduceSum <keepdims = 0> (x)\n half = Constant <value_float = 0.5> ()\n c = Greater (total, half)"
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17]>
        small (float[1, 4] x{given}) => (float[1, 4] y) {fixed} {{
            {made if condition == "computed" else ""}
            y = If (c) <
                then_branch = yes () => (float[1, 4] r) {{ r = Relu (x) }},
                else_branch = no () => (float[1, 4] r) {{ r = Neg (x) }}
            >
        }}
    """)
    kinds = [node.op_type for node in collapse(model).model.graph.node]
    assert ("If" in kinds) == (condition != "known") and ("Relu" in kinds) == (condition == "known")


def test_the_positions_in_a_constant_mask_are_known() -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        small (float[1, 4] x) => (float[1, 2] y) <bool[4] mask = {1, 0, 0, 1}> {
            places = NonZero (mask)
            axis = Constant <value_ints = [0]> ()
            flat = Squeeze (places, axis)
            y = Gather <axis = 1> (x, flat)
        }
    """)
    found = collapse(model).model
    assert [node.op_type for node in found.graph.node] == ["Gather"]
    x = np.arange(4, dtype=np.float32)[None]
    assert outputs(found, x)[0].tolist() == [[0, 3]]
