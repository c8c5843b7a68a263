"""Boards and models on a command line, and the models' reference outputs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest

from irepdeploy.errors import InputError, ModelError
from irepdeploy.jetson.hosts import Host, hosts_and_models, read_hosts
from irepdeploy.jetson.models import Model, read_models, variants_of
from irepdeploy.jetson.reference import reference_of
from support.scale_model import scale_model


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.onnx").write_bytes(scale_model())
    Path("half.onnx").write_bytes(scale_model(dtype="float16"))
    Path("q.onnx").write_bytes(scale_model(quantized=True))
    return tmp_path


def test_boards_come_from_the_line_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# ours\nme@one  # the first\n\n  ssh://two:2222\n")
    assert [host.name for host in read_hosts(["zero"], file)] == ["zero", "me@one", "ssh://two:2222"]
    assert hosts_and_models(["a.onnx"], file) == ([Host("me@one"), Host("ssh://two:2222")], ["a.onnx"])
    assert hosts_and_models(["me@one", "a.onnx", "b.onnx"], None) == ([Host("me@one")], ["a.onnx", "b.onnx"])


def test_the_python_of_each_board(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("one\ntwo\tpython=~/my venv/bin/python  # in an environment\n")
    assert read_hosts(["zero"], file) == [Host("zero"), Host("one"), Host("two", "~/my venv/bin/python")]
    found = read_hosts(["zero"], file, "/opt/python")
    assert [host.python for host in found] == ["/opt/python", "/opt/python", "~/my venv/bin/python"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("one pyhton=x", "line 1: 'one': unknown setting 'pyhton=x'"),
        ("one two", "unknown setting 'two'"),
        ("one python=", "line 1: --python: expected an interpreter, got ''"),
        ("one python=-c", "expected an interpreter"),
        ("one python=~me/python", "only a leading ~/ is expanded"),
        ("one\none python=x", "one: named twice"),
    ],
)
def test_settings_of_a_board_that_are_wrong(line: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(line)
    with pytest.raises(InputError, match=reason):
        read_hosts([], tmp_path / "hosts")


@pytest.mark.parametrize("python", ["", "-i", "a\nb"])
def test_an_interpreter_that_is_none(python: str) -> None:
    with pytest.raises(InputError, match="expected an interpreter"):
        read_hosts(["one"], None, python)


@pytest.mark.parametrize(
    ("hosts", "text", "message"),
    [
        ([], "# nobody", "no board named"),
        (["one"], "one", "one: named twice"),
        ([], "fine\n-oProxyCommand=x", "line 2"),
        ([], "a b", "line 1"),
        (["x"] * 65, "", "expected at most 64 boards, got 65"),
        ([], "\0\xff", "line 1"),
    ],
)
def test_boards_that_are_none_are_refused(tmp_path: Path, hosts: list[str], text: str, message: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_hosts(hosts, file)


def test_a_missing_file_of_boards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file of hosts"):
        read_hosts([], tmp_path / "none")


def test_a_forgotten_board_or_model_is_reported() -> None:
    with pytest.raises(InputError, match="expected a board, got a model"):
        hosts_and_models(["a.onnx", "b.onnx"], None)
    with pytest.raises(InputError, match="me@one: nothing to measure"):
        hosts_and_models(["me@one"], None)


def test_models_are_read_with_what_they_carry(folder: Path) -> None:
    models = read_models(["a.onnx", Path("half.onnx"), "own=q.onnx", f"{folder}/a.onnx"])
    assert [(model.label, model.carried) for model in models] == [
        ("a.onnx", "fp32"),
        ("half", "fp16"),
        ("own", "int8"),
        (f"{folder}/a.onnx", "fp32"),
    ]
    assert models[0].content == Path("a.onnx").read_bytes()


@pytest.mark.parametrize(
    "name", ["two words.onnx", "it's.onnx", "$(touch x).onnx", "two\nlines.onnx", "-rf.onnx", "a=b.onnx", "ä*?.onnx"]
)
def test_any_file_name_does(folder: Path, name: str) -> None:
    Path("a.onnx").rename(name)
    [model] = read_models([name])
    assert model.label == " ".join(name.removesuffix(".onnx").split())
    assert model.path == name
    assert sorted(path.name for path in folder.iterdir()) == sorted([name, "half.onnx", "q.onnx"])


def test_external_data_comes_with_the_model(folder: Path) -> None:
    proto = onnx.load("a.onnx")
    onnx.save(proto, "b.onnx", save_as_external_data=True, location="b.data", size_threshold=0)
    [model] = read_models(["b.onnx"])
    assert reference_of(model).expected == reference_of(*read_models(["a.onnx"])).expected
    Path("b.data").unlink()
    with pytest.raises(ModelError, match="its external data cannot be read"):
        read_models(["b.onnx"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.onnx", "no such ONNX file"),
        ("x.pt", "expected an ONNX file.*irepdeploy export x.pt --target xavier-jp5"),
        ("resnet18", "expected an ONNX file.*irepdeploy export resnet18 "),
        ("$(x)\n.pt", r"irepdeploy export \$'\$\(x\)\\n.pt' --target"),
        ("folder.onnx", "expected an ONNX file, got a directory"),
        ("bad.onnx", "not an ONNX model"),
        ("", "expected an ONNX file"),
    ],
)
def test_not_a_model_is_refused(folder: Path, name: str, message: str) -> None:
    Path("folder.onnx").mkdir()
    Path("bad.onnx").write_bytes(b"\xff\xff not one")
    with pytest.raises(InputError, match=f"(?s){message}"):
        read_models([name])


def test_a_label_given_twice_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="m: two models have this label"):
        read_models(["m=a.onnx", "m=half.onnx"])
    with pytest.raises(InputError, match="two models have this label"):
        read_models(["a.onnx", "a.onnx"])


def test_each_precision_goes_to_the_models_that_can_have_it(folder: Path) -> None:
    models = read_models(["a.onnx", "half.onnx", "q.onnx"])

    def labels(*precisions: str, builds: bool = True) -> list[tuple[str, str]]:
        return [(v.label, v.precision) for v in variants_of(models, precisions, builds=builds)]

    assert labels() == [("a", "fp32"), ("half", "fp16"), ("q", "int8")]
    assert labels("fp32", "fp16", "int8", "fp16") == [
        ("a fp32", "fp32"),
        ("a fp16", "fp16"),
        ("half", "fp16"),
        ("q", "int8"),
    ]
    with pytest.raises(InputError, match=r"q\.onnx: the model is int8 .*--precision fp16"):
        labels("fp16")
    with pytest.raises(InputError, match="no model can run in int8"):
        variants_of(models[:2], ["fp32", "fp16", "int8"], builds=True)
    with pytest.raises(InputError, match="the model is fp32"):
        variants_of(models[:1], ["fp16"], builds=False)
    # TensorRT rounds float64 weights; ONNX Runtime runs them as they are.
    wide = [Model("wide", "wide.onnx", b"", "fp64")]
    assert [variants_of(wide, [], builds=builds)[0].precision for builds in (True, False)] == ["fp32", "fp64"]
    with pytest.raises(InputError, match="unknown precision 'fp8'"):
        labels("fp8")


def arrays(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive)


def test_the_reference_is_what_onnx_runtime_gives(folder: Path) -> None:
    [model] = read_models(["a.onnx"])
    reference = reference_of(model, seed=3)
    inputs, expected = arrays(reference.inputs), arrays(reference.expected)
    assert inputs["input"].shape[1:] == (1, 1, 8, 8) and inputs["input"].dtype == np.float32
    assert np.array_equal(expected["logits"], inputs["input"] * 2)
    assert (reference.batch, reference.profiles) == (1, {"input": [[1, 1, 8, 8]] * 3})
    assert reference.groups[0]["name"] == "random, standard normal"
    assert sum(group["count"] for group in reference.groups) == len(inputs["input"])
    assert reference_of(model, seed=3) == reference
    assert reference_of(model, seed=4).inputs != reference.inputs


def test_batches_are_whole(folder: Path) -> None:
    fixed = Model("m", "m.onnx", scale_model(shape=(3, 1, 8, 8)), "fp32")
    reference = reference_of(fixed)
    assert reference.batch == 3 and reference.profiles == {}
    assert arrays(reference.expected)["logits"].shape[1:] == (3, 1, 8, 8)
    assert reference_of(fixed, batch=3) == reference
    with pytest.raises(InputError, match=r"m\.onnx: the model's batch size is 3"):
        reference_of(fixed, batch=2)
    [free] = read_models(["a.onnx"])
    np.save("few.npy", np.ones((2, 1, 8, 8), np.float32))
    many = reference_of(free, batch=32, given="few.npy")
    assert arrays(many.inputs)["input"].shape == (1, 32, 1, 8, 8)
    assert many.profiles == {"input": [[32, 1, 8, 8]] * 3}


def test_given_inputs_take_the_place_of_real_ones(folder: Path) -> None:
    [model] = read_models(["a.onnx"])
    np.save("own.npy", np.full((2, 1, 8, 8), 7, np.float32))
    reference = reference_of(model, given="own.npy")
    assert np.array_equal(arrays(reference.inputs)["input"][-2:], np.full((2, 1, 1, 8, 8), 7, np.float32))
    np.save("own.npy", np.full((2, 3, 8, 8), 7, np.float32))
    with pytest.raises(InputError, match=r"own\.npy: expected shape"):
        reference_of(model, given="own.npy")


@pytest.mark.parametrize("name", ["file", "input/x", "../x", "allow_pickle", "a b"])
def test_any_tensor_name_does(name: str) -> None:
    reference = reference_of(Model("m", "m.onnx", scale_model(name=name), "fp32"))
    assert set(arrays(reference.inputs)) == {name}


def test_what_cannot_be_held_against_anything_is_refused() -> None:
    def refused(message: str, **how: object) -> None:
        with pytest.raises(InputError, match=rf"(?s)m\.onnx: .*{message}"):
            reference_of(Model("m", "m.onnx", scale_model(**how), "fp32"))

    refused("dynamic dimensions", shape=("n", 1, "h", 8))
    refused("holds NaN or infinity", weight=float("inf"))
