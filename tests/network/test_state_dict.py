"""State dicts that training scripts and other tools wrote, loaded into a user's own class."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.errors import CheckpointError, MissingError
from irepdeploy.reparam.origin import origin_of

State = dict[str, Tensor]


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).mean((2, 3)))


def weights(seed: int = 1) -> State:
    torch.manual_seed(seed)
    return {
        name: torch.rand_like(value, dtype=torch.float32).to(value.dtype) for name, value in Mine().state_dict().items()
    }


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def compiled_part(state: State) -> State:
    return {name.replace("stem.", "stem._orig_mod."): value for name, value in state.items()}


RIGHT, OTHER = weights(1), weights(2)
WRITTEN: dict[str, tuple[Callable[[], Any], str]] = {
    "alone": (lambda: RIGHT, "from the file"),
    "parallel": (lambda: under("module.", RIGHT), "from the file"),
    "parallel and compiled": (lambda: under("_orig_mod.module.", RIGHT), "from the file"),
    "a compiled part": (lambda: compiled_part(RIGHT), "from the file"),
    "in a checkpoint": (lambda: {"state_dict": RIGHT, "epoch": 3, "args": Namespace(lr=0.1)}, "state_dict"),
    "of a model": (lambda: {"model": under("module.", RIGHT), "optimizer": {"state": {}}}, "model"),
    "with text beside it": (lambda: {**RIGHT, "epoch": 3}, "from the file"),
    "deeper": (lambda: {"model": {"state_dict": RIGHT}}, "model.state_dict"),
    "a moving average beside": (
        lambda: {"state_dict": OTHER, "state_dict_ema": under("module.", RIGHT)},
        "state_dict_ema; also in the file: state_dict",
    ),
    "an average without statistics": (
        lambda: {"ema": {k: v for k, v in OTHER.items() if "running" not in k}, "model": RIGHT},
        "model; also in the file: ema",
    ),
    "an averaged model": (lambda: {**under("module.", RIGHT), "n_averaged": torch.tensor(5)}, "from the file"),
    "a moving average among the names": (
        lambda: {**under("model.", OTHER), **under("ema.", RIGHT)},
        "names without 'ema.'; 8 other tensors ignored",
    ),
    "of a trainer": (
        lambda: {"state_dict": {**under("net.", RIGHT), "loss.weight": torch.ones(3)}},
        "state_dict; names without 'net.'; 1 other tensor ignored (loss.weight)",
    ),
    "with numbers of numpy": (lambda: {"model": RIGHT, "best": np.float64(0.9), "epoch": np.int64(3)}, "model"),
    "of a pair of networks": (lambda: {"critic": {"w": torch.ones(2)}, "generator": RIGHT}, "generator"),
    "with averaged counters": (
        lambda: {k: v.float() if "tracked" in k else v for k, v in RIGHT.items()},
        "from the file",
    ),
    "counted by thop": (
        lambda: {**RIGHT, "total_ops": torch.zeros(1), "stem.0.total_params": torch.zeros(1)},
        "2 counts of operations ignored",
    ),
    "before torch 0.4.1": (lambda: {k: v for k, v in RIGHT.items() if "tracked" not in k}, "from the file"),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_weights_arrive(kind: str, tmp_path: Path) -> None:
    make, said = WRITTEN[kind]
    torch.save(make(), tmp_path / "w.pth")
    network = ird.load(tmp_path / "w.pth", model=Mine)
    assert not network.training and said in origin_of(network).statistics
    for name, value in network.state_dict().items():
        if "tracked" not in name:
            assert torch.equal(value, RIGHT[name]), name


def test_half_precision_becomes_that_of_the_class(tmp_path: Path) -> None:
    torch.save(
        {name: value.half() if value.is_floating_point() else value for name, value in RIGHT.items()},
        tmp_path / "half.pt",
    )
    network = ird.load(tmp_path / "half.pt", model=Mine)
    assert network.head.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert "float16 in the file" in origin_of(network).statistics


def test_files_of_old_versions_of_torch(tmp_path: Path) -> None:
    torch.save({"state_dict": RIGHT}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(ird.load(tmp_path / "old.pth", model=Mine).state_dict()["head.weight"], RIGHT["head.weight"])
    torch.save(Mine(), tmp_path / "whole.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"save its state_dict\(\)"):
        ird.load(tmp_path / "whole.pth", model=Mine)


def test_a_wrong_class_that_shares_a_prefix_lists_all_that_is_in_the_file(tmp_path: Path) -> None:
    inside = {name: value for name, value in RIGHT.items() if name.startswith("stem.0")}
    state = {**under("net.", inside), **{f"other.{place}": torch.ones(2) for place in range(9)}}
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"6 missing .*, 9 unexpected") as caught:
        ird.load(tmp_path / "w.pt", model=Mine)
    assert "other.0" in caught.value.line


def test_missing_and_unexpected_names_are_listed(tmp_path: Path) -> None:
    state = {name.replace("head", "classifier"): value for name, value in RIGHT.items()}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as caught:
        ird.load(tmp_path / "w.pt", model=Mine)
    assert "2 missing (head.bias, head.weight)" in caught.value.line
    assert "2 unexpected (classifier.bias, classifier.weight)" in caught.value.line
    torch.save(under("module.", {**RIGHT, "head.weight": torch.ones(3, 4)}), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"head\.weight: expected \(2, 4\), got \(3, 4\)"):
        ird.load(tmp_path / "w.pt", model=Mine)


def test_several_networks_of_one_class_are_not_chosen_from(tmp_path: Path) -> None:
    torch.save({"student": RIGHT, "teacher": OTHER}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"several state dicts of this network: student, teacher .*\['student'\]"):
        ird.load(tmp_path / "w.pt", model=Mine)


class _NoNumber:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> Any:
        return type(np.float64(0)).__reduce__(np.float64(0))[0], self.arguments


@pytest.mark.parametrize("arguments", [(np.dtype("V9"), b"123456789"), (np.dtype("f8"), b"1"), ("f8", b"12345678")])
def test_numpy_gives_numbers_only(arguments: Any, tmp_path: Path) -> None:
    torch.save({"model": RIGHT, "best": _NoNumber(*arguments)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError):
        ird.load(tmp_path / "w.pt", model=Mine)


def test_without_a_class_the_line_says_how(tmp_path: Path) -> None:
    torch.save({"state_dict": RIGHT}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"a state dict: 8 tensors such as .* --model package\.module:factory"):
        ird.load(tmp_path / "w.pt")
    torch.save({"epoch": 3}, tmp_path / "n.pt")
    with pytest.raises(CheckpointError, match="without a state dict"):
        ird.load(tmp_path / "n.pt", model=Mine)


def test_weights_that_a_checkpoint_could_not_hold_are_refused(tmp_path: Path) -> None:
    torch.save({**RIGHT, "head.weight": RIGHT["head.weight"].to_sparse()}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="expected dense weights, got a sparse tensor"):
        ird.load(tmp_path / "w.pt", model=Mine)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_is_recognized(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(Mine().eval(), torch.zeros(1, 3, 8, 8)), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="a TorchScript program"):
        ird.load(tmp_path / "m.pt", model=Mine)


def test_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(MissingError, match="pip install safetensors"):
        ird.load(path, model=Mine)
    library = ModuleType("safetensors.torch")
    library.load = lambda raw: under("model.", RIGHT)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "safetensors", ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", library)
    assert torch.equal(ird.load(path, model=Mine).state_dict()["head.bias"], RIGHT["head.bias"])


def test_a_state_dict_exports(tmp_path: Path) -> None:
    torch.save({"model": under("module.", RIGHT)}, tmp_path / "w.pt")
    found = ird.export_model(
        tmp_path / "w.pt", tmp_path / "out", model_factory=Mine, inputs=torch.rand(2, 3, 8, 8).numpy(), simplify=False
    )
    assert found.source["statistics"] == "from the file: model" and found.source["sha256"]
