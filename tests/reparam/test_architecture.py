from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irepdeploy.errors import ArchitectureError, InputError
from irepdeploy.reparam.architecture import Architecture

ONE = Architecture(("a", "größe", "c.0"), ("x", "y"), ((0, 1), (1, 1), (0, 0)))
GOOD: dict[str, Any] = ONE.to_dict()

names = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4, unique=True)


@given(layers=names, branches=names, seed=st.integers(0, 2**16 - 1))
def test_json_round_trip(layers: list[str], branches: list[str], seed: int) -> None:
    width = len(branches)
    rows = tuple(tuple(seed >> (i * width + j) & 1 for j in range(width)) for i in range(len(layers)))
    one = Architecture(tuple(layers), tuple(branches), rows)
    again = Architecture.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again == one
    assert again.digest == one.digest
    assert Architecture.from_branches({layer: one.kept(layer) for layer in layers}, branches) == one
    assert one.count == sum(len(one.kept(layer)) for layer in layers)


def test_saved_and_loaded(tmp_path: Path) -> None:
    assert ONE.save(tmp_path / "a.json") == tmp_path / "a.json"
    assert Architecture.load(tmp_path / "a.json") == ONE
    assert json.loads((tmp_path / "a.json").read_text())["format"] == "irepdeploy.architecture"


def test_kept_and_count() -> None:
    assert [ONE.kept(layer) for layer in ONE.layers] == [("y",), ("x", "y"), ()]
    assert ONE.count == 3
    with pytest.raises(ArchitectureError, match="elsewhere: no such layer"):
        ONE.kept("elsewhere")


def test_the_digest_is_of_the_content() -> None:
    others = [
        Architecture(("a", "b", "c.0"), ONE.branches, ONE.matrix),
        Architecture(ONE.layers, ("y", "x"), ONE.matrix),
        Architecture(ONE.layers, ONE.branches, ((0, 1), (1, 1), (0, 1))),
    ]
    assert len({one.digest for one in [ONE, *others]}) == 4


def test_the_order_of_kept_names_does_not_matter() -> None:
    kept = {"a": ["y"], "größe": ["y", "x", "y"], "c.0": []}
    assert Architecture.from_branches(kept, ("x", "y")) == ONE
    with pytest.raises(ArchitectureError, match="a: unknown branch z"):
        Architecture.from_branches({"a": ["z"]}, ("x", "y"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": ["a", "a", "c"]}, "layer named twice: a"),
        ({"branches": ["x", "x"]}, "branch named twice: x"),
        ({"matrix": [[0, 1]]}, "expected 3 rows, one per layer, got 1"),
        ({"matrix": [[0, 1], [1], [0, 0]]}, "größe: expected 2 columns, one per branch, got 1"),
        ({"matrix": [[0, 1], [1, 2], [0, 0]]}, "größe: expected only 0 and 1"),
        ({"matrix": [[0, 1], [1, -1], [0, 0]]}, "only 0 and 1"),
        ({"matrix": [[0, 1], [1, True], [0, 0]]}, "wrong type"),
        ({"matrix": [[0, 1], [1, 1.0], [0, 0]]}, "wrong type"),
        ({"matrix": [[0, 1], "11", [0, 0]]}, "wrong type"),
        ({"matrix": None}, "wrong type"),
        ({"matrix": [1, 2, 3]}, "wrong type"),
        ({"layers": "abc"}, "wrong type"),
        ({"layers": {"a": 1, "b": 2, "c": 3}}, "wrong type"),
        ({"layers": [1, 2, 3]}, "wrong type"),
        ({"branches": None}, "wrong type"),
        ({"version": 2}, "version 2; this irepdeploy reads 1"),
        ({"version": None}, "version None"),
        ({"format": "other"}, "not an Architecture"),
    ],
)
def test_what_is_no_architecture(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(ArchitectureError) as caught:
        Architecture.load(path)
    assert said in caught.value.line
    assert caught.value.line.startswith(str(path))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("key", ["layers", "branches", "matrix"])
def test_missing_parts(key: str) -> None:
    with pytest.raises(ArchitectureError, match="missing"):
        Architecture.from_dict({name: value for name, value in GOOD.items() if name != key})


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xff", b"PK\x03\x04", b"[" * 100_000, b'{"a": ' * 100_000])
def test_files_that_are_not_json(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArchitectureError, match="not JSON"):
        Architecture.load(tmp_path / "a.json")


def test_a_changed_file_is_refused_and_an_edited_one_taken_without_its_check(tmp_path: Path) -> None:
    path = Architecture(("a", "b"), ("conv1x3",), ((1,), (0,))).save(tmp_path / "best.json")
    assert Architecture.load(tmp_path) == Architecture.load(path)
    value = json.loads(path.read_text())
    value["matrix"] = [[1], [1]]
    path.write_text(json.dumps(value))
    with pytest.raises(ArchitectureError, match='does not match its check \\(if you edited it, remove "check"\\)'):
        Architecture.load(path)
    del value["check"]
    path.write_text(json.dumps(value))
    assert Architecture.load(path).count == 2
    path.write_text(json.dumps({**value, "chesk": "0"}))
    with pytest.raises(ArchitectureError, match="unknown field 'chesk'"):
        Architecture.load(path)
    path.write_text('{"layers": [], ' + json.dumps(value)[1:])
    with pytest.raises(ArchitectureError, match="key 'layers' occurs twice"):
        Architecture.load(path)


@pytest.mark.parametrize("content", ["null", "3", "[]", '"text"', "{}"])
def test_json_that_is_not_an_architecture(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ArchitectureError, match=r"not an Architecture.*best\.json"):
        Architecture.load(tmp_path / "a.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such Architecture file"):
        Architecture.load(tmp_path / "none.json")


def test_it_needs_no_torch() -> None:
    code = "import sys, irepdeploy.reparam.architecture; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_digest_does_not_depend_on_how_the_columns_are_written() -> None:
    one = Architecture(("a", "b"), ("x", "y", "z"), ((1, 0, 0), (1, 1, 0)))
    twin = Architecture(("a", "b"), ("y", "x"), ((0, 1), (1, 1)))
    assert one.digest == twin.digest
    assert one.digest != Architecture(("a", "b"), ("y", "x"), ((1, 0), (1, 1))).digest
