"""Programs of ``torch.export`` are accepted as networks, and nothing hidden in a hostile file is run."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.errors import CheckpointError
from irepdeploy.reparam.origin import origin_of


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = self.bn(self.conv(image)).relu()
        return {"classes": self.head(maps.mean((2, 3))), "rows": maps.view(image.shape[0], -1)}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "m.pt2"
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(Mine().eval(), (torch.randn(2, 3, 6, 6),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, path)
    return path


def test_a_program_is_exported(program: Path, tmp_path: Path) -> None:
    network = ird.load(program)
    assert not network.training and [str(spec) for spec in origin_of(network).specs] == ["image float32 ?x3x6x6"]
    images = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    certificate = ird.export_model(program, tmp_path, inputs=images, simplify=False)
    assert certificate.source["statistics"] == "from the file: a program of torch.export"
    assert [output["name"] for output in certificate.onnx["outputs"]] == ["classes", "rows"]
    assert certificate.onnx["operators"]["Conv"] == 1 and "BatchNormalization" not in certificate.onnx["operators"]


def changed(program: Path, path: Path, change: Callable[[dict[str, Any]], None], more: dict[str, bytes] = {}) -> Path:  # noqa: B006
    """Write the program again, its graph changed, with more members."""
    with zipfile.ZipFile(program) as old:
        members = {name: old.read(name) for name in old.namelist()}
    folder = next(iter(members)).partition("/")[0]
    graph = json.loads(members[f"{folder}/models/model.json"])
    change(graph)
    members[f"{folder}/models/model.json"] = json.dumps(graph).encode()
    members |= {f"{folder}/{name}": content for name, content in more.items()}
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, content in members.items():
        if not name.startswith((f"{folder}/.data", f"{folder}/byteorder", f"{folder}/version")):
            writer.write_record(name.partition("/")[2], content, len(content))
    writer.write_end_of_file()
    return path


def test_a_program_written_again_is_read(program: Path, tmp_path: Path) -> None:
    """The tests below change one thing each, so rewriting the rest must be harmless."""
    ird.load(changed(program, tmp_path / "m.pt2", lambda graph: None))


def node_of(graph: dict[str, Any]) -> dict[str, Any]:
    return graph["graph_module"]["graph"]["nodes"][1]


def run_at_import(graph: dict[str, Any]) -> None:
    node_of(graph)["target"] = "torch.hub.load"


def evaluated(graph: dict[str, Any]) -> None:
    value = next(iter(graph["graph_module"]["graph"]["sym_int_values"].values()))
    value["as_expr"]["expr_str"] = "__import__('os').getpid()"


def evaluated_by_attribute(graph: dict[str, Any]) -> None:
    value = next(iter(graph["graph_module"]["graph"]["sym_int_values"].values()))
    value["as_expr"]["expr_str"] = "Symbol('s0').__class__"


def code_in_a_name(graph: dict[str, Any]) -> None:
    node_of(graph)["inputs"][0]["name"] = "x=print('run')"


def imported_by_a_tree(graph: dict[str, Any]) -> None:
    call = graph["graph_module"]["module_call_graph"][0]["signature"]
    call["in_spec"] = call["in_spec"].replace("builtins.tuple", "collections.defaultdict")


def custom_operator(graph: dict[str, Any]) -> None:
    node_of(graph)["target"] = "torch.ops.mine.conv.default"


@pytest.mark.parametrize(
    "change",
    [run_at_import, evaluated, evaluated_by_attribute, code_in_a_name, imported_by_a_tree, custom_operator],
    ids=lambda change: change.__name__,
)
def test_code_in_a_graph_is_refused(change: Callable[[dict[str, Any]], None], program: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="refused: the program may run code"):
        ird.load(changed(program, tmp_path / "bad.pt2", change))


@pytest.mark.parametrize(
    "member", ["data/constants/opaque_obj_0", "data/constants/custom_obj_0", "data/aotinductor/m/a.so"]
)
def test_members_that_hold_code_are_refused(member: str, program: Path, tmp_path: Path) -> None:
    path = changed(program, tmp_path / "bad.pt2", lambda graph: None, {member: b"\x80\x04."})
    with pytest.raises(CheckpointError, match="is not a part of a plain program"):
        ird.load(path)


def test_pickles_in_a_program_run_nothing(program: Path, tmp_path: Path) -> None:
    target = tmp_path / "exploded"
    buffer = io.BytesIO()

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (target,)

    torch.save((Bomb(),), buffer)
    path = changed(
        program, tmp_path / "bad.pt2", lambda graph: None, {"data/sample_inputs/model.pt": buffer.getvalue()}
    )
    with pytest.raises(CheckpointError, match="cannot read this program"):
        ird.load(path)
    assert not target.exists()


def test_damage_and_old_versions_are_one_line(program: Path, tmp_path: Path) -> None:
    raw = bytearray(program.read_bytes())
    raw[raw.index(b"conv2d.default")] ^= 1
    (tmp_path / "damaged.pt2").write_bytes(raw)
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        ird.load(tmp_path / "damaged.pt2")
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(CheckpointError, match=r"by torch before 2\.8"):
        ird.load(tmp_path / "old.pt2")
