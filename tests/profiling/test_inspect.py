"""`irepdeploy inspect` and `inspect_model`: sizes compared with manual counts, every source, the cost of branches."""

from __future__ import annotations

import copy
import json
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import irepdeploy as ird
from irepdeploy.board.runner import TensorSpec
from irepdeploy.cli import main
from irepdeploy.errors import ArchitectureError, InputError, ModelError, RunError
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.limits import size_text
from irepdeploy.network.nets import NETS
from irepdeploy.onnx_graph.facts import read_onnx
from irepdeploy.profiling import branch_cost, inspection, training_cost
from irepdeploy.profiling.branch_cost import CostRequest
from irepdeploy.profiling.counts import REST, Counts, conv_text, count, count_layers
from irepdeploy.profiling.health import network_health
from irepdeploy.profiling.inspection import Inspection, inspect_model
from irepdeploy.profiling.training_cost import PeakMemory, StepTime
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.origin import origin_of, set_origin
from irepdeploy.runtime.memory import parse_size
from support.graph_writer import onnx_model
from support.networks import random_network

Capture = pytest.CaptureFixture[str]

# Side of the map, input and output channels of each convolution of vgg6.
VGG6 = [(16, 1, 16), (16, 16, 16), (8, 16, 32), (8, 32, 32), (4, 32, 64), (4, 64, 64)]
# The same of a smaller one, which most tests inspect.
SMALL = [(8, 1, 4), (8, 4, 4)]
SMALL_NET: dict[str, Any] = {"stages": ((4, 4),), "input_shape": (1, 8, 8)}


def fused_counts(convolutions: list[tuple[int, int, int]]) -> tuple[int, int]:
    head = 10 * convolutions[-1][2]
    params = sum(9 * inner * outer + outer for _, inner, outer in convolutions) + head + 10
    return params, sum(side * side * 9 * inner * outer for side, inner, outer in convolutions) + head


def branch_params(inner: int, outer: int) -> int:
    """One layer with all nine branches (eight without the identity), its factors, and the fixed operation."""
    bn, area = 2 * outer, inner * outer
    taps = [3 * area + bn, 3 * area + bn, area + bn, 2 * area + bn, 2 * area + bn, 4 * area + bn]
    chain = inner * inner + 2 * inner + 9 * area + bn
    pool = area + bn + bn
    identity = bn if inner == outer else 0
    return 9 * area + bn + sum(taps) + chain + pool + identity + (9 if identity else 8) + 1


FUSED_PARAMS, FUSED_MACS = fused_counts(SMALL)
TRAIN_PARAMS = sum(branch_params(inner, outer) for _, inner, outer in SMALL) + 4 * 10 + 10
# Taps of all branches: 9 + 3 + 3 + 1 + 9 + 1 + 2 + 2 + 4 a product of channels, and the 1x1 of the chain.
TRAIN_MACS = sum(side * side * (34 * inner * outer + inner * inner) for side, inner, outer in SMALL) + 4 * 10


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    branched = random_network(branches="ireps", **SMALL_NET)
    fused = ird.fuse(branched)
    paths = {name: folder / name for name in ("plain.pt", "train.pt", "fused.pt", "fused.onnx")}
    for name, network in (("plain.pt", random_network(**SMALL_NET)), ("train.pt", branched), ("fused.pt", fused)):
        ird.save(network, paths[name])
    paths["fused.onnx"].write_bytes(serialized(onnx_from_torch(fused, [TensorSpec("input", (1, 1, 8, 8))], ["logits"])))
    return paths


def inspected(capsys: Capture, *args: object) -> dict[str, Any]:
    """What the command prints as JSON."""
    capsys.readouterr()
    assert main(["inspect", *map(str, args), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    return found


def printed(capsys: Capture, *args: object) -> str:
    capsys.readouterr()
    assert main(["inspect", *map(str, args)]) == 0
    return capsys.readouterr().out


def inspected_and_printed(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, *args: object
) -> tuple[dict[str, Any], str]:
    """Return the JSON and the text that the command prints for one inspection."""
    kept: list[Inspection] = []
    original = inspection.inspect_model

    def inspect_once(*given: Any, **options: Any) -> Inspection:
        kept.extend([] if kept else [original(*given, **options)])
        return kept[0]

    with monkeypatch.context() as patch:
        patch.setattr(inspection, "inspect_model", inspect_once)
        return inspected(capsys, *args), printed(capsys, *args)


def refused(capsys: Capture, *args: object) -> str:
    """Return the single line printed for invalid input."""
    capsys.readouterr()
    assert main(["inspect", *map(str, args)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize("name", ["train.pt", "fused.pt"])
def test_both_states_of_a_checkpoint_by_hand(models: dict[str, Path], name: str, capsys: Capture) -> None:
    found = inspected(capsys, models[name])
    assert found["facts"]["state"] == name.removesuffix(".pt")
    assert (found["train"]["params"], found["fused"]["params"]) == (TRAIN_PARAMS, FUSED_PARAMS)
    assert found["fused"]["macs"] == FUSED_MACS
    layers = {layer["layer"]: layer for layer in found["layers"]}
    for (side, inner, outer), layer in zip(SMALL, found["layers"], strict=False):
        assert layer["train"]["params"] == branch_params(inner, outer)
        assert layer["fused"] == {"params": 9 * inner * outer + outer, "macs": side * side * 9 * inner * outer}
        assert layer["train"]["macs"] == side * side * (34 * inner * outer + inner * inner)
        assert len(layer["branches"]) == (9 if inner == outer else 8)
    assert layers["head"]["train"] == layers["head"]["fused"] == {"params": 50, "macs": 40}
    for state in ("train", "fused"):
        for figure in ("params", "macs"):
            assert sum(layer[state][figure] for layer in found["layers"]) == found[state][figure]
    assert found["notes"] == found["warnings"] == []


def test_health_is_that_of_the_layers(models: dict[str, Path], capsys: Capture) -> None:
    expected = {layer.layer: layer.to_dict() for layer in network_health(ird.load(models["train.pt"]))}
    for name in ("train.pt", "fused.pt", "fused.onnx"):
        found = {layer["layer"]: layer["health"] for layer in inspected(capsys, models[name])["layers"]}
        assert {layer: health["after"] for layer, health in found.items() if health} == {
            layer: health["after"] for layer, health in expected.items()
        }
        before = {layer: health["before"] for layer, health in found.items() if health}
        known = name == "train.pt"
        assert before == {layer: health["before"] if known else None for layer, health in expected.items()}


def test_what_is_printed(models: dict[str, Path], capsys: Capture) -> None:
    text = printed(capsys, models["train.pt"])
    digest = ird.load(models["train.pt"]).irepdeploy_origin.architecture.digest
    for part in (f"{models['train.pt']}: vgg6, train state; 17 branches at 2 convolutions", digest, "1x8x8"):
        assert part in text
    assert "weights: from the checkpoint" in text and "not accuracy" in text and "before -> after" in text
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert total.split() == [
        "total",
        "17",
        *(f"{count:,}" for count in (TRAIN_PARAMS, FUSED_PARAMS, TRAIN_MACS, FUSED_MACS)),
    ]
    first = next(line for line in text.splitlines() if line.startswith("stages.0.0.conv"))
    assert first.split() == ["stages.0.0.conv", *["x"] * 8, "."]
    assert all(line.count(" -> ") >= 4 for line in text.partition("Health")[2].splitlines() if "stages." in line)
    text = printed(capsys, models["fused.pt"])
    assert "fused state; 17 branches were fused into 2 convolutions" in text and "->" not in text.partition("Health")[2]
    text = printed(capsys, models["fused.onnx"])
    assert "ONNX, opset 13" in text and "input 1x1x8x8, logits 1x10" in text and "train" not in text
    assert next(line for line in text.splitlines() if line.startswith("Conv ")).split() == ["Conv", "2"]
    assert "total" in text and f"{FUSED_PARAMS:,}" in text and f"{FUSED_MACS:,}" in text


def test_a_network_by_name(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    found, text = inspected_and_printed(capsys, monkeypatch, "vgg6")
    assert "Branches" not in text
    assert found["facts"]["statistics"] == "random, seed 0" and found["facts"]["architecture"] is None
    # A plain network is described by its blocks: each convolution with its batch normalization.
    params, macs = fused_counts(VGG6)
    assert found["train"]["params"] == params + sum(outer for _, _, outer in VGG6)
    assert (found["fused"]["params"], found["train"]["macs"]) == (params, macs)
    assert inspected(capsys, "vgg6") == found
    other = inspected(capsys, "vgg6", "--seed", 1)
    assert other["layers"][0]["health"] != found["layers"][0]["health"] and other["train"] == found["train"]


def test_where_convolutions_cannot_be_expanded_their_normalization_stays(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, text = inspected_and_printed(capsys, monkeypatch, "resnet18_cifar")
    rest = next(layer for layer in found["layers"] if layer["layer"] == REST)
    # Three shortcuts of 1x1 keep theirs.
    assert rest["train"] == rest["fused"] == {"params": 2 * (128 + 256 + 512), "macs": 0}
    assert found["train"]["params"] == 11_173_962
    assert "everything else" in text


def test_branches_of_an_architecture(tmp_path: Path, capsys: Capture) -> None:
    chosen = Architecture.from_branches({"stages.1.1.conv": ["conv1x1", "identity"]}, ("conv1x1", "identity"))
    chosen.save(tmp_path / "best.json")
    found = inspected(capsys, "vgg6", "--arch", tmp_path / "best.json")
    assert found["facts"]["architecture"] == chosen.digest and found["facts"]["branches"] == 2
    assert [layer["layer"] for layer in found["layers"] if layer["branches"]] == ["stages.1.1.conv"]
    plain = inspected(capsys, "vgg6")["train"]["params"]
    assert found["train"]["params"] == plain + 32 * 32 + 2 * 32 + 2 * 32 + 3
    ird.save(random_network(), tmp_path / "plain.pt")
    found = inspected(capsys, tmp_path / "plain.pt", "--arch", tmp_path / "best.json")
    assert found["facts"]["branches"] == 2 and "branches fresh" in found["facts"]["statistics"]
    ird.save(random_network(branches="repvgg"), tmp_path / "branched.pt")
    assert "already has branches" in refused(capsys, tmp_path / "branched.pt", "--arch", tmp_path / "best.json")
    assert "no such convolution" in refused(capsys, "resnet18_cifar", "--arch", tmp_path / "best.json")


def test_a_network_in_memory_stays_as_it_is() -> None:
    network = random_network(branches="ireps", **SMALL_NET).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = inspect_model(network)
    assert found.train == Counts(TRAIN_PARAMS, TRAIN_MACS) and found.facts["statistics"] == "from the network given"
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_network_that_cannot_be_fused(tmp_path: Path, capsys: Capture) -> None:
    network = random_network(branches="repvgg")
    network.stages[0][0].conv.fixed.conv.weight.data[0] = float("nan")
    ird.save(network, tmp_path / "nan.pt")
    found = inspected(capsys, tmp_path / "nan.pt")
    assert found["fused"] is None and found["train"]["params"] > 0
    assert any("no fused state" in text and "not finite" in text for text in found["warnings"])
    assert any("stages.0.0.conv: 9 values are NaN" in text for text in found["warnings"])
    assert main(["inspect", str(tmp_path / "nan.pt")]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning: ") == len(found["warnings"]) and "warning" not in captured.out


# Foreign networks.

MINE = """
from torch import nn
print("imported")

class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        y = self.depthwise(self.first(x)).mean((2, 3))
        return {"logits": self.head(y), "maps": [y.reshape(-1, 8, 1, 1)]}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], nn.Module]:
    """A user's class, in a module in the current folder."""
    (tmp_path / "mine_for_inspect.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import mine_for_inspect  # type: ignore[import-not-found]  # written above

    factory: Callable[[], nn.Module] = mine_for_inspect.Mine
    return factory


def test_a_foreign_class(mine: Callable[[], nn.Module], tmp_path: Path, capsys: Capture) -> None:
    network = ird.insert_branches(mine(), "repvgg").eval()
    given = {"factory": "mine_for_inspect:Mine", "input_shape": (3, 9, 8)}
    ird.save(network, tmp_path / "train.pt", **given)
    ird.save(ird.fuse(network), tmp_path / "fused.pt", **given)
    assert "--model mine_for_inspect:Mine" in refused(capsys, tmp_path / "train.pt")
    # In memory, a fused network has no train state until its factory is named.
    in_memory = inspect_model(ird.load(tmp_path / "fused.pt", model=mine))
    assert in_memory.train is None and any("train state: not known" in note for note in in_memory.notes)
    for name in ("train.pt", "fused.pt"):
        found = inspected(capsys, tmp_path / name, "--model", "mine_for_inspect:Mine")
        assert found["facts"]["factory"] == "mine_for_inspect:Mine" and found["notes"] == []
        # 5x4 maps; the 1x1 branch and its normalization beside each, an identity beside the second.
        macs = 20 * (9 * 3 * 8 + 9 * 8) + 8 * 4
        assert found["fused"] == {"params": 9 * 24 + 8 + 9 * 8 + 8 + 8 * 4 + 4, "macs": macs}
        branches = (24 + 16) + (8 + 16) + 16
        assert found["train"] == {"params": 9 * 24 + 16 + 9 * 8 + 8 + 36 + branches, "macs": macs + 20 * (24 + 8)}
        assert [layer["operation"] for layer in found["layers"]][:3] == [
            "3x3 conv 3 -> 8, stride 2",
            "3x3 conv 8 -> 8, 8 groups",
            "linear 8 -> 4",
        ]


def test_a_network_that_does_not_say_what_it_reads(
    mine: Callable[[], nn.Module], tmp_path: Path, capsys: Capture
) -> None:
    model = ("--model", "mine_for_inspect:Mine")
    ird.save(mine(), tmp_path / "unknown.pt")
    found = inspected(capsys, tmp_path / "unknown.pt", *model)
    assert found["fused"] == {"params": 9 * 24 + 8 + 9 * 8 + 8 + 36, "macs": None}
    assert len(found["notes"]) == 1 and "has no input shape" in found["notes"][0]
    assert "has no input shape" in refused(capsys, tmp_path / "unknown.pt", *model, "--cost")
    ird.save(mine(), tmp_path / "wrong.pt", input_shape=(4, 9, 8))
    found = inspected(capsys, tmp_path / "wrong.pt", *model)
    assert found["train"]["macs"] is None and len(found["notes"]) == 1
    assert "does not run on (4, 9, 8)" in found["notes"][0]
    assert "does not run on inputs of shape (4, 9, 8)" in refused(capsys, tmp_path / "wrong.pt", *model, "--cost")


# ONNX.


def onnx_file(
    path: Path,
    nodes: list[onnx.NodeProto],
    shape: list[int | str | None],
    weights: dict[str, np.ndarray[Any, Any]],
    outputs: tuple[str, ...] = ("y",),
) -> Path:
    onnx.save(onnx_model(nodes, {"x": shape}, dict.fromkeys(outputs), weights), path)
    return path


def random(*shape: int, dtype: str = "float32") -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def test_sizes_that_the_file_leaves_free(tmp_path: Path, capsys: Capture) -> None:
    weights = {"w": random(6, 4, 3, 3), "m": random(6, 5)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "m"], ["y"], "matmul"),
    ]
    path = onnx_file(tmp_path / "m.onnx", nodes, ["n", 4, "h", "w"], weights)
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fused"]["macs"] is None
    assert main(["inspect", str(path), "--json", "--input-shape", "?x4x9x8"]) == 0
    assert json.loads(capsys.readouterr().out)["fused"]["macs"] == 7 * 6 * 6 * 4 * 9 + 6 * 5
    assert main(["inspect", str(path), "--input-shape", "1x5x9x8"]) == 2
    # A network that does not know its input.
    found = inspect_model(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), input_shape=[TensorSpec("x", (1, 3, 8, 8))])
    assert found.fused is not None and found.fused.macs == 36 * 4 * 27


def test_onnx_by_hand(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", strides=[2, 2], pads=[1, 1, 1, 1], group=2),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Reshape", ["p", "shape"], ["f"], "reshape"),
        helper.make_node("MatMul", ["f", "m"], ["h"], "matmul"),
        helper.make_node("Gemm", ["h", "g", "h0"], ["k"], "gemm", transB=1),
        helper.make_node("Gemm", ["k", "g"], ["l"], "again"),
        helper.make_node("Clip", ["l", "low"], ["y"], "clip"),
    ]
    weights = {
        "w": random(6, 2, 3, 3),
        "b": random(6),
        "shape": np.array([0, -1]),
        "m": random(6, 5),
        "g": random(3, 5),
        "h0": random(3),
        "low": np.float32(0),
    }
    for batch in (1, 7, "N"):
        found = read_onnx(onnx_file(tmp_path / "m.onnx", nodes, [batch, 4, 9, 8], weights))
        macs = {"conv": 5 * 4 * 6 * 2 * 9, "matmul": 6 * 5, "gemm": 5 * 3, "again": 3 * 5}
        assert {layer.name: layer.macs for layer in found.layers} == macs
        # Weights that two nodes share count once; a limit is none.
        params = {"conv": 6 * 2 * 9 + 6, "matmul": 30, "gemm": 18, "again": 0}
        assert {layer.name: layer.params for layer in found.layers} == params
        assert (found.params, found.macs) == (sum(params.values()), sum(macs.values()))
        assert conv_text(*found.layers[0].conv) == "3x3 conv 4 -> 6, stride 2, 2 groups"
        assert found.operators == dict(sorted(Counter(node.op_type for node in nodes).items()))
        assert found.inputs == {"x": [batch, 4, 9, 8]} and found.not_counted == []


def test_onnx_of_a_free_size(tmp_path: Path, capsys: Capture) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    found = inspected(capsys, onnx_file(tmp_path / "m.onnx", nodes, [1, 2, "H", 8], {"w": random(3, 2, 3, 3)}))
    assert found["fused"] == {"params": 54, "macs": None} and "shapes of 1 node are dynamic" in found["notes"][0]
    assert found["layers"][0]["health"]["after"]["int8_tensor_db"] > 30


def test_onnx_with_what_is_not_counted(tmp_path: Path, capsys: Capture) -> None:
    half = numpy_helper.from_array(random(3, 2, 3, 3, dtype="float16"))
    nodes = [
        helper.make_node("Constant", [], ["w"], "constant", value=half),
        helper.make_node("Cast", ["w"], ["w32"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "v"], ["c"], "plain"),
        helper.make_node("Conv", ["x", "w32"], ["d"], "computed"),
        helper.make_node("BatchNormalization", ["c", "s", "s", "s", "s"], ["n"], "bn"),
        helper.make_node("ConvTranspose", ["n", "w"], ["t"], "transposed"),
        helper.make_node("Strange", ["d"], ["y"], "strange", domain="mine"),
    ]
    weights = {"v": random(3, 2, 3, 3), "s": random(3)}
    found = inspected(capsys, onnx_file(tmp_path / "m.onnx", nodes, [1, 2, 8, 8], weights, ("y", "t")))
    notes = "; ".join(found["notes"])
    assert "not counted in any MACs: ConvTranspose, mine::Strange" in notes
    assert "without the batch normalization after them" in notes and "health of 1 convolution:" in notes
    # A constant counts as a parameter like an initializer does; each is counted once.
    assert found["fused"]["params"] == 54 + 54 + 3 and found["operators"]["Conv"] == 2
    assert [layer["layer"] for layer in found["layers"] if layer["health"]] == ["plain"]


def test_onnx_with_its_weights_in_another_file(models: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "m.onnx"
    model = onnx.load(models["fused.onnx"])
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    outside, inside = inspected(capsys, path), inspected(capsys, models["fused.onnx"])
    assert outside["layers"] == inside["layers"] and outside["fused"] == inside["fused"]
    (tmp_path / "weights.bin").unlink()
    assert "external data cannot be read" in refused(capsys, path)


def test_sources_that_are_none(models: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    whole = models["fused.onnx"].read_bytes()
    for name, content, said in (
        ("half.onnx", whole[: len(whole) // 2], "ONNX"),
        ("empty.onnx", b"", "no graph"),
        ("garbage.onnx", b"garbage" * 100, "not an ONNX model"),
        ("swapped.onnx", models["fused.pt"].read_bytes(), "not an ONNX model"),
        ("swapped.pt", whole, "got an ONNX model"),
        ("garbage.pt", b"garbage" * 100, "not a checkpoint"),
    ):
        (tmp_path / name).write_bytes(content)
        line = refused(capsys, tmp_path / name)
        assert name in line and said in line
    assert "did you mean vgg6" in refused(capsys, "vgg61")
    assert "no such ONNX file" in refused(capsys, tmp_path / "none.onnx")
    assert "no such checkpoint" in refused(capsys, tmp_path / "none.pt")
    with pytest.raises(ModelError):
        read_onnx(tmp_path / "garbage.onnx")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "4"], "--batch without --cost"),
        (["--memory", "8GB", "--presets", "ireps"], "--presets and --memory without --cost"),
        (["--cost", "--presets", "iresp"], "unknown preset 'iresp'"),
        (["--cost", "--presets", "irep-resnet18"], "no such convolution in the network"),
        (["--cost", "--presets", " , "], "--presets is empty"),
        (["--cost", "--memory", "8"], "expected a memory size such as 8GB, got '8'"),
        (["--cost", "--memory", "much"], "8GiB"),
        (["--arch", "none.json"], "none.json"),
    ],
)
def test_options_that_are_wrong(options: list[str], said: str, capsys: Capture) -> None:
    assert said in refused(capsys, "vgg6", *options)


def test_a_batch_that_no_machine_holds_is_refused_before_anything_runs(capsys: Capture) -> None:
    assert main(["inspect", "vgg6", "--cost", "--batch", "1000000000"]) == 4
    assert "--batch: a batch of 1,000,000,000 would take" in capsys.readouterr().err


def test_an_onnx_model_has_no_branches_and_is_not_trained(models: dict[str, Path], capsys: Capture) -> None:
    assert "cannot be trained" in refused(capsys, models["fused.onnx"], "--cost")


def test_cuda_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["inspect", "vgg6", "--cost", "--device", "cuda"]) == 3
    assert "no CUDA device" in capsys.readouterr().err


# What branches cost.


class Measured:
    """Stand-in for the measurements: records their arguments and returns fixed results."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory: dict[int, PeakMemory] = {}
        self.asked: list[dict[str, Any]] = []
        self.timed: dict[str, nn.Module] = {}
        self.error: Exception | None = None
        monkeypatch.setattr(branch_cost, "peak_memory", self.peak_memory)
        monkeypatch.setattr(branch_cost, "step_times", self.step_times)

    def peak_memory(self, path: Path, batch_size: int, *, device: str, factory: str | None) -> PeakMemory:
        self.asked.append({"batch": batch_size, "device": device, "factory": factory, "path": path})
        return self.memory.get(len(self.asked), PeakMemory(len(self.asked) * 10**9))

    def step_times(self, nets: dict[str, nn.Module], batch_size: int, **settings: Any) -> dict[str, StepTime]:
        if self.error is not None:
            raise self.error
        self.timed = nets
        for share in (0.0, 0.5, 0.5, 1.0):
            settings["on_round"](share)
        return {name: StepTime(0.5 * (1 + index), 5) for index, name in enumerate(nets)}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return Measured(monkeypatch)


def cost_rows(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["cost"]["rows"]}


@pytest.mark.slow
def test_every_preset_that_fits(models: dict[str, Path], measured: Measured, capsys: Capture) -> None:
    found = inspected(capsys, models["plain.pt"], "--cost", "--batch", 4)
    rows = cost_rows(found)
    assert next(iter(rows)) == "plain" and {"ireps", "acnet", "dbb", "mobileone", "ireps-resnet-cifar"} <= set(rows)
    # Two presets of one structure are measured once.
    assert "repvgg, mobileone-k1" in rows
    assert rows["plain"]["params"] == found["train"]["params"] and rows["plain"]["branches"] == 0
    assert rows["plain"]["macs"] == FUSED_MACS
    assert (rows["ireps"]["params"], rows["ireps"]["branches"]) == (TRAIN_PARAMS, 17)
    acnet = sum(6 * inner * outer + 4 * outer for _, inner, outer in SMALL)
    assert (rows["acnet"]["params"], rows["acnet"]["branches"]) == (rows["plain"]["params"] + acnet, 4)
    assert {(asked["batch"], asked["device"], asked["factory"]) for asked in measured.asked} == {(4, "cpu", None)}
    assert not any(asked["path"].exists() for asked in measured.asked)
    assert found["cost"]["batch_size"] == 4 and rows["plain"]["fits"] is None


def test_the_network_as_it_is(models: dict[str, Path], measured: Measured, capsys: Capture) -> None:
    found = inspected(capsys, models["train.pt"], "--cost", "--presets", "acnet,ireps")
    rows = cost_rows(found)
    assert list(rows) == ["plain", "as it is, ireps", "acnet"]
    assert rows["as it is, ireps"]["params"] == TRAIN_PARAMS and rows["as it is, ireps"]["branches"] == 17
    assert rows["plain"]["params"] == FUSED_PARAMS + sum(outer for _, _, outer in SMALL)
    assert found["cost"]["batch_size"] == 32


def test_presets_stand_where_the_network_has_branches(measured: Measured) -> None:
    network = ird.insert_branches(random_network(**SMALL_NET), "ireps", where="stages.0.1.*")
    before = copy.deepcopy(network.state_dict())
    cost = inspect_model(network, cost=CostRequest(("repvgg",))).cost
    assert cost is not None and [(row.name, row.branches) for row in cost.rows] == [
        ("plain", 0),
        ("as it is", 9),
        ("repvgg", 2),
    ]
    # Timing trains a network, so it must not be the user's own.
    assert all(net is not network for net in measured.timed.values())
    inspect_model(plain := random_network(**SMALL_NET), cost=CostRequest(("acnet",)))
    assert all(net is not plain for net in measured.timed.values())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_what_fits_the_memory(
    models: dict[str, Path], measured: Measured, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2 * 10**9
    none = PeakMemory(None)
    measured.memory = {1: PeakMemory(limit), 2: PeakMemory(limit + 1), 3: PeakMemory(None, True), 4: none}
    options = ("--cost", "--presets", "acnet,repvgg,dbb", "--memory", "2GB", "--batch", "16")
    found, text = inspected_and_printed(capsys, monkeypatch, models["plain.pt"], *options)
    rows = cost_rows(found)
    fits = {name: row["fits"] for name, row in rows.items()}
    assert fits == {"plain": True, "acnet": False, "repvgg": False, "dbb": None}
    assert found["cost"]["memory_bytes"] == limit
    assert rows["repvgg"]["time"] is None and rows["repvgg"]["memory"]["out_of_memory"]
    assert "repvgg" not in measured.timed and rows["acnet"]["time"] == {"seconds": 1.0, "samples": 5}
    assert "trains within 2 GB, batch 16: plain\n" in text and "not known, batch 16: dbb\n" in text
    assert "does not fit 2 GB, batch 16: acnet; repvgg\n" in text
    assert "on this machine" in text and "median of 5 steps" in text and "a GPU needs a different amount" in text
    for name, ends in (("repvgg", "- - ran out"), ("acnet", "1 2.00 2 GB")):
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert " ".join(line.split()).endswith(f" {ends}")


def test_nothing_fits(models: dict[str, Path], measured: Measured, capsys: Capture) -> None:
    measured.memory = {1: PeakMemory(None, out_of_memory=True), 2: PeakMemory(None, out_of_memory=True)}
    text = printed(capsys, models["plain.pt"], "--cost", "--presets", "acnet", "--memory", "1GB")
    assert "does not fit 1 GB, batch 32: plain; acnet" in text and not measured.timed and "median" not in text


def test_memory_that_runs_out_while_timing(models: dict[str, Path], measured: Measured, capsys: Capture) -> None:
    measured.error = torch.OutOfMemoryError("full")
    found = inspected(capsys, models["plain.pt"], "--cost", "--presets", "acnet")
    assert all(row["time"] is None for row in found["cost"]["rows"])
    assert any("could not be timed" in note for note in found["cost"]["notes"])
    measured.error = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        inspect_model(models["plain.pt"], cost=CostRequest(("acnet",)))


def test_a_fused_network_says_what_was_done(models: dict[str, Path], measured: Measured, capsys: Capture) -> None:
    found = inspected(capsys, models["fused.pt"], "--cost", "--presets", "acnet,none")
    rows = cost_rows(found)
    assert list(rows) == ["fused, as it is, none", "acnet"]
    assert rows["fused, as it is, none"]["params"] == FUSED_PARAMS
    assert rows["acnet"]["params"] == FUSED_PARAMS + sum(6 * i * o + 4 * o for _, i, o in SMALL)
    assert "beside its fused convolutions" in found["cost"]["notes"][0]


def test_a_foreign_class_is_built_by_other_processes_too(mine: Callable[[], nn.Module], measured: Measured) -> None:
    network = set_origin(ird.insert_branches(mine(), "dbb"), input_shape=(3, 9, 8))
    request = CostRequest(("repvgg",), batch_size=2)
    cost = inspect_model(network, model_factory=mine, cost=request).cost
    assert cost is not None and [row.name for row in cost.rows] == ["plain", "as it is", "repvgg"]
    assert {asked["factory"] for asked in measured.asked} == {"mine_for_inspect:Mine"}
    assert all(origin_of(net).input_shape == (3, 9, 8) for net in measured.timed.values())
    with pytest.raises(InputError, match="--model"):
        inspect_model(network, cost=request)
    with pytest.raises(InputError, match="cannot import the factory"):
        inspect_model(network, model_factory=lambda: mine(), cost=request)


def test_a_preset_that_cannot_stand_anywhere(measured: Measured) -> None:
    network = set_origin(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.LazyLinear(2)), input_shape=(1, 4, 4))
    network(torch.zeros(1, 1, 4, 4))
    with pytest.raises((ArchitectureError, ModelError)):
        inspect_model(network, model_factory=PeakMemory, cost=CostRequest(("ireps",)))  # type: ignore[arg-type]
    cost = inspect_model(network, model_factory=PeakMemory, cost=CostRequest()).cost  # type: ignore[arg-type]
    assert cost is not None and [row.name for row in cost.rows] == ["plain"]


def test_a_process_that_fails_names_the_preset(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_cost.sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="plain: the process that measures memory failed"):
        inspect_model("vgg6", cost=CostRequest(("acnet",)))
    with pytest.raises(RunError, match="process that measures memory failed"):
        training_cost.training_cost({"train": models["train.pt"]}, 2)


@pytest.mark.parametrize(
    ("preset", "rows"), [("none", ["plain, none"]), pytest.param("acnet", ["plain", "acnet"], marks=pytest.mark.slow)]
)
def test_measured_on_this_machine(
    mine: Callable[[], nn.Module], preset: str, rows: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one real measurement: a foreign class, whose module prints, gives maps and is built by other processes."""
    monkeypatch.setattr(branch_cost, "step_times", partial(training_cost.step_times, min_seconds=0.0))
    model = "mine_for_inspect:Mine"
    ird.save(mine(), "mine.pt", factory=model, input_shape=(3, 64, 64))
    options = ("--model", model, "--cost", "--presets", preset, "--batch", 16, "--memory", "90GB")
    found = cost_rows(inspected(capsys, "mine.pt", *options))
    assert list(found) == rows
    assert all(row["time"]["seconds"] > 0 and row["time"]["samples"] >= 5 for row in found.values())
    peaks = [row["memory"]["peak_bytes"] for row in found.values()]
    if None in peaks:
        pytest.skip("this system does not tell a process its peak memory")
    # 16 maps of 32x32 with 8 channels are half a MB; several of them are kept, and many more with branches.
    assert peaks[0] > 10**6 and peaks == sorted(set(peaks)) and all(row["fits"] for row in found.values())


# A process that runs out of memory.


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("full"), RuntimeError("[enforce fail] can't allocate memory: x")]
)
def test_memory_that_runs_out_is_a_result(
    models: dict[str, Path], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(training_cost, "_train_once", lambda *_: None)
    monkeypatch.setattr(training_cost, "training_step", lambda *_, **__: fail)
    found = training_cost._measured(str(models["train.pt"]), 2, 1, "cpu", "")
    assert found == PeakMemory(None, out_of_memory=True)
    error = ValueError("another reason")
    with pytest.raises(ValueError, match="another reason"):
        training_cost._measured(str(models["train.pt"]), 2, 1, "cpu", "")


def test_a_process_that_the_system_ended(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(training_cost.subprocess, "run", lambda *_, **__: ended)
    assert training_cost.peak_memory(models["train.pt"], 2).out_of_memory
    with pytest.raises(RunError, match="out of memory"):
        training_cost.training_cost({"a": models["train.pt"]}, 2)
    ended.returncode = -11
    with pytest.raises(RunError, match="ended by SIGSEGV"):
        training_cost.peak_memory(models["train.pt"], 2)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * 10**9), ("8 gib", 8 * 2**30), ("0.5g", 5 * 10**8), ("512MiB", 512 * 2**20), ("1TB", 10**12)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "8", "GB", "0GB", "-1GB", "1e3GB", "8kB", "8 GB GB", "9" * 400 + "GB", "٣GB", "nanGB"]
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="expected a memory size"):
        parse_size(text)


def test_sizes_in_words() -> None:
    sizes = (999, 71_400_000, 999_400_000, 1_240_000_000, 12_300_000_000)
    assert list(map(size_text, sizes)) == ["999 bytes", "71.4 MB", "999 MB", "1.24 GB", "12.3 GB"]


# Counts by layer.


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.table = nn.Embedding(9, 4)

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.conv(image).mean((2, 3)) + self.table(tokens).mean(1)


def test_sizes_of_several_inputs_that_are_asked_for() -> None:
    asked = [TensorSpec("tokens", (2, 5), "int64"), TensorSpec("image", (2, 3, 8, 9))]
    found = inspect_model(Two().eval(), input_shape=asked)
    # By name, whatever their order: 6x7 maps of one image.
    assert found.notes == [] and found.fused == Counts(4 * 27 + 4 + 36, 6 * 7 * 27 * 4)
    (note,) = inspect_model(Two().eval()).notes
    assert "--input-shape" in note
    (note,) = inspect_model(Two().eval(), input_shape=[TensorSpec("image", (2, 2, 8, 9)), asked[0]]).notes
    assert "the network does not run on image float32 ?x2x8x9, tokens int64 ?x5: " in note


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 2, 3, padding=1)
        self.b = self.a
        self.c = nn.Linear(4, 2)
        self.d = nn.Linear(4, 2)
        self.d.weight = self.c.weight
        self.bn = nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn(self.b(self.a(x))).flatten(1) @ torch.ones(2 * 16, 4)
        return self.c(y) + self.d(y)


def test_counts_by_layer_add_up() -> None:
    found = count_layers(Shared(), (2, 4, 4))
    assert found == {
        "a": Counts(38, 2 * 16 * 36),
        "c": Counts(10, 8),
        "d": Counts(2, 8),
        REST: Counts(4, 2 * 16 * 4),
    }
    assert count(Shared(), (2, 4, 4)) == Counts(54, sum(counts.macs or 0 for counts in found.values()))
    unknown = count_layers(Shared(), None)
    assert {name: counts.params for name, counts in unknown.items()} == {"a": 38, "c": 10, "d": 2, REST: 4}
    assert all(counts.macs is None for counts in unknown.values())


def test_convolutions_in_words() -> None:
    assert conv_text(3, 8, (3, 1), (2, 1), (1, 1)) == "3x1 conv 3 -> 8, stride 2x1"
    assert conv_text(8, 8, (5, 5), (2, 2), (3, 3), 8) == "5x5 conv 8 -> 8, stride 2, dilation 3, 8 groups"
    assert conv_text(8, 4, (1, 1)) == "1x1 conv 8 -> 4"


def test_a_layer_that_is_the_whole_network() -> None:
    assert count_layers(nn.Conv2d(1, 2, 3), (1, 5, 5)) == {"": Counts(20, 9 * 18), REST: Counts(0, 0)}
    block = random_network(branches="ireps").stages[0][1].conv
    assert list(count_layers(block, (16, 4, 4))) == ["", REST]
    assert isinstance(inspect_model(set_origin(nn.Conv2d(1, 2, 3), input_shape=(1, 5, 5))), Inspection)


@pytest.mark.parametrize("note", ["", "stands in for another"])
def test_what_stands_in_for_what_is_told(note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETS, "vgg6", replace(NETS["vgg6"], note=note))
    assert inspect_model("vgg6").notes == ([note] if note else [])
    assert "publishes no Architecture" in NETS["irep_vgg16"].note
