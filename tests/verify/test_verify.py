"""`irepdeploy verify`, `verify_models` and `assert_equivalent`: all pairs of forms, and pairs that do not compare."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import irepdeploy
from irepdeploy.board.runner import TensorSpec
from irepdeploy.cli import main
from irepdeploy.errors import InputError, ModelError
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.reparam.comparator import Tolerance
from irepdeploy.testing import assert_equivalent
from irepdeploy.verify.equivalence import verify_models
from support.networks import random_network

Capture = pytest.CaptureFixture[str]


def as_onnx(model: nn.Module, shape: tuple[int, ...] = (1, 1, 16, 16)) -> bytes:
    return serialized(onnx_from_torch(model, [TensorSpec("input", shape)], ["logits"]))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network in three forms, and another that differs in one weight."""
    folder = tmp_path_factory.mktemp("models")
    branched = random_network(branches="repvgg", stages=((4, 4), (8, 8)))
    fused = irepdeploy.fuse(branched)
    other = copy.deepcopy(fused)
    with torch.no_grad():
        other.stages[1][0].conv.weight[0, 0, 1, 1] += 0.5
    paths = {name: folder / name for name in ("train.pt", "fused.pt", "other.pt")}
    for path, model in zip(paths.values(), (branched, fused, other), strict=True):
        irepdeploy.save(model, path)
    for name, model in (("fused.onnx", fused), ("other.onnx", other)):
        paths[name] = folder / name
        paths[name].write_bytes(as_onnx(model))
    paths["large.onnx"] = folder / "large.onnx"
    paths["large.onnx"].write_bytes(as_onnx(random_network(), (1, 1, 24, 24)))
    return paths


def changed(models: dict[str, Path], path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(models["fused.onnx"])
    change(model)
    onnx.save(model, path)
    return path


def free(*positions: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            dims = value.type.tensor_type.shape.dim
            for position in positions:
                if position < len(dims) and (position == 0 or value in model.graph.input):
                    dims[position].dim_param = f"free{position}"

    return change


@pytest.mark.parametrize("a", ["train.pt", "fused.pt", "fused.onnx"])
@pytest.mark.parametrize("b", ["train.pt", "fused.pt", "fused.onnx"])
def test_every_pairing_is_the_same(models: dict[str, Path], a: str, b: str, capsys: Capture) -> None:
    assert main(["verify", str(models[a]), str(models[b])]) == 0
    out = capsys.readouterr().out
    assert "the same" in out and "1e-04" in out and "64 photographs" in out and "8 random" in out


@pytest.mark.parametrize(
    ("a", "b"),
    [("train.pt", "other.onnx"), ("fused.onnx", "other.onnx"), ("other.onnx", "fused.pt"), ("train.pt", "other.pt")],
)
def test_a_difference_is_exit_code_1(models: dict[str, Path], a: str, b: str, capsys: Capture) -> None:
    assert main(["verify", str(models[a]), str(models[b])]) == 1
    captured = capsys.readouterr()
    assert "DIFFERENT" in captured.out and "is allowed" in captured.err
    # Between two checkpoints.
    assert ("first layer that differs is stages.1.0.conv" in captured.err) == (b == "other.pt")


def test_json(models: dict[str, Path], capsys: Capture) -> None:
    assert main(["verify", str(models["fused.pt"]), str(models["other.onnx"]), "--json"]) == 1
    value = json.loads(capsys.readouterr().out)
    assert value["comparison"]["ok"] is False and [group["count"] for group in value["inputs"]] == [8, 64]


def test_tolerance(models: dict[str, Path], capsys: Capture) -> None:
    pair = (models["fused.pt"], models["other.pt"])
    assert verify_models(*pair, tolerance=Tolerance(100.0)).ok
    assert not verify_models(*pair, tolerance=Tolerance(1e-3)).ok
    assert main(["verify", *map(str, pair), "--tolerance", "exact"]) == 2
    assert "float32" in capsys.readouterr().err


def test_own_inputs(models: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((3, 1, 16, 16), dtype=np.float32))
    args = ["verify", str(models["train.pt"]), str(models["fused.onnx"]), "--inputs"]
    assert main([*args, str(tmp_path / "x.npy")]) == 0
    assert "8 random, standard normal + 3 " in capsys.readouterr().out
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 8, 8), np.float32))
    assert main([*args, str(tmp_path / "x.npy")]) == 2
    assert "got (3, 1, 8, 8)" in capsys.readouterr().err


def test_a_free_batch(models: dict[str, Path], tmp_path: Path) -> None:
    assert main(["verify", str(models["train.pt"]), str(changed(models, tmp_path / "m.onnx", free(0)))]) == 0


def test_a_fixed_batch_that_does_not_divide(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(as_onnx(irepdeploy.load(models["fused.pt"]), (5, 1, 16, 16)))
    result = verify_models(models["fused.onnx"], tmp_path / "m.onnx")
    assert result.ok and result.comparison.samples == 72


def test_a_free_size_needs_inputs(models: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    path = str(changed(models, tmp_path / "m.onnx", free(0, 2, 3)))
    assert main(["verify", path, path]) == 2
    assert "?x1x?x?" in (err := capsys.readouterr().err) and "--inputs" in err
    np.save(tmp_path / "x.npy", np.ones((2, 1, 24, 16), np.float32))
    assert main(["verify", path, path, "--inputs", str(tmp_path / "x.npy")]) == 0
    # Sizes that are dynamic in one model may be fixed in the other.
    assert main(["verify", path, str(models["train.pt"])]) == 0
    np.save(tmp_path / "x.npy", np.ones((2, 3, 24, 16), np.float32))
    assert main(["verify", path, path, "--inputs", str(tmp_path / "x.npy")]) == 2


def test_different_inputs(models: dict[str, Path], capsys: Capture) -> None:
    assert main(["verify", str(models["train.pt"]), str(models["large.onnx"])]) == 2
    assert "?x1x16x16 and 1x1x24x24" in capsys.readouterr().err


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, (1,)))


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(onnx.helper.make_tensor_value_info("flatten", onnx.TensorProto.FLOAT, (1, 8)))


def whole_numbers(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    model.graph.node[0].input[0] = "cast"
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["input"], ["cast"], "cast", to=onnx.TensorProto.FLOAT))


@pytest.mark.parametrize(
    ("change", "named"),
    [(second_input, "2 inputs"), (second_output, "numbers of outputs: 1 and 2"), (whole_numbers, "uint8")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_models_that_cannot_be_compared(
    models: dict[str, Path], tmp_path: Path, change: Callable[[onnx.ModelProto], None], named: str, capsys: Capture
) -> None:
    path = changed(models, tmp_path / "m.onnx", change)
    assert main(["verify", str(models["fused.pt"]), str(path)]) == 2
    assert named in capsys.readouterr().err


def test_not_a_number_is_a_difference(models: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    def poison(model: onnx.ModelProto) -> None:
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "head.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), "head.bias"))

    assert main(["verify", str(models["fused.pt"]), str(changed(models, tmp_path / "m.onnx", poison))]) == 1
    assert "NaN" in capsys.readouterr().err


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.exit, ("the file ran code",))


def damaged_files(models: dict[str, Path], folder: Path) -> dict[str, bytes]:
    whole, checkpoint = models["fused.onnx"].read_bytes(), models["fused.pt"].read_bytes()
    return {
        "truncated.onnx": whole[: len(whole) // 2],
        "header.onnx": whole[:20],
        "empty.onnx": b"",
        "garbage.onnx": b"garbage" * 100,
        "swapped.onnx": checkpoint,
        "swapped.pt": whole,
        "truncated.pt": checkpoint[: len(checkpoint) // 2],
        "empty.pt": b"",
        "garbage.pt": b"garbage" * 100,
        "bomb.pt": pickle.dumps(Bomb()),
    }


def test_damaged_files_are_one_line_and_exit_code_2(models: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    for name, content in damaged_files(models, tmp_path).items():
        (tmp_path / name).write_bytes(content)
        for order in (1, -1):
            pair = [str(models["fused.pt"]), str(tmp_path / name)][::order]
            assert main(["verify", *pair]) == 2, name
            err = capsys.readouterr().err
            assert err.count("\n") == 1 and name in err and "Traceback" not in err
    for name in ("none.onnx", "none.pt"):
        assert main(["verify", str(tmp_path / name), str(models["fused.pt"])]) == 2
        assert name in capsys.readouterr().err
    assert main(["verify", str(tmp_path), str(models["fused.pt"])]) == 2


def test_external_data_that_is_missing(models: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.load(models["fused.onnx"]), path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert main(["verify", str(models["fused.pt"]), str(path)]) == 0
    capsys.readouterr()
    (tmp_path / "m.data").unlink()
    assert main(["verify", str(models["fused.pt"]), str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


FOREIGN = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6))
"""


def test_a_foreign_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    (tmp_path / "theirs_for_verify.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    import theirs_for_verify  # type: ignore[import-not-found]  # written above

    torch.manual_seed(0)
    model = theirs_for_verify.make().eval()
    irepdeploy.save(model, tmp_path / "m.pt", factory="theirs_for_verify:make", input_shape=(1, 8, 8))
    (tmp_path / "m.onnx").write_bytes(as_onnx(model, (1, 1, 8, 8)))
    args = ["verify", str(tmp_path / "m.pt"), str(tmp_path / "m.onnx")]
    assert main(args) == 2
    assert "--model theirs_for_verify:make" in capsys.readouterr().err
    assert main([*args, "--model", "theirs_for_verify:make"]) == 0
    assert main([*args, "--model", "theirs_for_verify:other"]) == 2
    assert main([*args, "--model", "no_such_module:make"]) == 3
    irepdeploy.save(model, tmp_path / "m.pt")
    assert main([*args, "--model", "theirs_for_verify:make"]) == 0


@pytest.mark.parametrize(
    "name", ["with space.onnx", "qu'o\"te.onnx", "ünïcode-日本.onnx", "$(touch x);.onnx", "-dash.onnx"]
)
def test_hostile_names(models: dict[str, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(models["fused.onnx"].read_bytes())
    assert main(["verify", str(models["fused.pt"]), "--", name]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_assert_equivalent(models: dict[str, Path]) -> None:
    fused, other = (irepdeploy.load(models[name]) for name in ("fused.pt", "other.pt"))
    x = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert_equivalent(models["train.pt"], fused, x)
    assert_equivalent(fused, models["fused.onnx"], x.numpy())
    assert_equivalent(fused, models["train.pt"])
    with pytest.raises(
        AssertionError, match=r"VGG and VGG are not equivalent.*first layer that differs is stages\.1\.0\.conv"
    ):
        assert_equivalent(fused, other, x)
    assert_equivalent(fused, other, x, tolerance=Tolerance(100.0))
    with pytest.raises(InputError, match="train mode"):
        assert_equivalent(copy.deepcopy(fused).train(), other, x)


def test_networks_without_an_origin() -> None:
    model = nn.Sequential(nn.Conv2d(5, 4, 3), nn.ReLU()).eval()
    with pytest.raises(InputError, match="--inputs"):
        assert_equivalent(model, copy.deepcopy(model))
    assert_equivalent(model, copy.deepcopy(model), torch.ones(2, 5, 8, 8))
    with pytest.raises(ModelError, match="cannot run on this input"):
        assert_equivalent(model, copy.deepcopy(model), torch.ones(2, 4, 8, 8))
    wide = copy.deepcopy(model).double()
    assert_equivalent(wide, model, torch.ones(2, 5, 8, 8))
    table = nn.Sequential(nn.Linear(5, 3), nn.ReLU()).eval()
    assert_equivalent(table, copy.deepcopy(table), torch.ones(2, 5))
    assert verify_models(table, copy.deepcopy(table), input_shape=[TensorSpec("input", (1, 5))]).ok


def test_outputs_without_a_batch_are_compared_one_by_one() -> None:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum()

    found = verify_models(Sum().eval(), Sum().eval(), torch.ones(2, 1, 8, 8))
    assert found.ok and found.comparison.samples == 10


@pytest.mark.parametrize("wrap", [dict, lambda pairs: [value for _, value in pairs]], ids=["named", "unnamed"])
def test_networks_of_several_outputs_need_no_names(wrap: Callable[..., object]) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

        def forward(self, image: torch.Tensor) -> object:
            maps = self.conv(image)
            return wrap([("boxes", maps), ("scores", self.head(maps.mean((2, 3))))])

    network = irepdeploy.insert_branches(Heads(), "acnet").eval()
    found = verify_models(network, irepdeploy.fuse(network), torch.rand(2, 3, 8, 8))
    assert found.ok
    names = ["boxes", "scores"] if wrap is dict else ["out_0", "out_1"]
    assert [output.name for output in found.comparison.outputs] == names
