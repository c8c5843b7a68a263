"""Sidecars: one-line reasons why an engine cannot run here, with the command that fixes it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.board.sidecar import PlanHeader, Sidecar, check_sidecar, read_plan_header, read_sidecar, sidecar_path
from irepdeploy.errors import InputError
from support.engine_sidecar import make_sidecar

PLAN = b"ftrt" + bytes(20) + bytes((10, 3, 0, 26)) + b"the layers" * 50
HERE: dict[str, Any] = {"version": "10.3.0.26", "flavour": "tensorrt", "compute_capability": "8.0"}


def sidecar(**changes: Any) -> Sidecar:
    return make_sidecar(PLAN, **changes)


def without_digest() -> dict[str, Any]:
    """Return a sidecar of version 1."""
    value = {**sidecar().to_dict(), "version": 1}
    del value["digest"]
    return value


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "mödel 'x'.engine"
    path.write_bytes(PLAN)
    write(path, sidecar())
    return path


def write(engine: Path, beside: Sidecar) -> None:
    Path(sidecar_path(engine)).write_text(json.dumps(beside.to_dict()))


def test_an_engine_that_fits(engine: Path) -> None:
    assert check_sidecar(engine, **HERE) == read_sidecar(engine) == sidecar()
    # Unknown parts are not compared: JetPack reports four parts of a version, a wheel perhaps three.
    assert check_sidecar(engine, version="10.3.0", flavour="tensorrt")
    # An engine for any GPU.
    write(engine, sidecar(compute_capability=None))
    assert check_sidecar(engine, **HERE)


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        ({"version": "10.7.0.23"}, r"built with TensorRT 10\.3\.0\.26, which TensorRT 10\.7\.0\.23 cannot load"),
        ({"version": "10.3.0.27"}, r"TensorRT 10\.3\.0\.27 cannot load"),
        ({"version": "10"}, "cannot load"),
        ({"flavour": "tensorrt_rtx", "version": "10.3.0.26"}, r"which TensorRT-RTX 10\.3\.0\.26 cannot load"),
        ({"compute_capability": "9.0"}, r"compute capability 8\.0 \(NVIDIA A100.*\), but the GPU here has 9\.0"),
    ],
)
def test_another_tensorrt_or_gpu(engine: Path, here: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        check_sidecar(engine, **{**HERE, **here})
    assert "\n" not in caught.value.line
    assert caught.value.hint == "build it again: irepdeploy export model.onnx --target trt --precision fp16"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (PLAN[:100], "truncated: 100 of 528 bytes"),
        (PLAN[:27], "truncated: 27 of 528 bytes"),
        (b"", "the engine is empty"),
        (PLAN[:-1] + b"!", "the digest differs"),
        (PLAN + b"!", "the digest differs"),
    ],
)
def test_a_damaged_engine(engine: Path, content: bytes, reason: str) -> None:
    engine.write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        check_sidecar(engine, **HERE)
    assert caught.value.hint and "build it again" in caught.value.hint


def test_the_digest_is_looked_at_before_what_may_not_belong_to_it(engine: Path) -> None:
    engine.write_bytes(PLAN[:-1] + b"!")
    with pytest.raises(InputError, match="digest"):
        check_sidecar(engine, version="8.5.2.2", flavour="tensorrt")


def test_no_engine(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such engine"):
        check_sidecar(tmp_path / "model.engine", **HERE)
    with pytest.raises(InputError, match="got a directory"):
        check_sidecar(tmp_path, **HERE)


def test_without_a_sidecar_the_header_speaks(engine: Path) -> None:
    Path(sidecar_path(engine)).unlink()
    with pytest.raises(InputError, match=r"no mödel 'x'.engine.json next to .*of TensorRT 10\.3\.0\.26 by its header"):
        check_sidecar(engine, **HERE)
    assert check_sidecar(engine, **HERE, require=False) is None
    for require in (True, False):
        with pytest.raises(InputError, match=r"built with TensorRT 10\.3\.0\.26, which TensorRT 8\.5\.2\.2 cannot"):
            check_sidecar(engine, version="8.5.2.2", flavour="tensorrt", require=require)


def test_an_unknown_header_is_not_guessed(engine: Path) -> None:
    Path(sidecar_path(engine)).unlink()
    engine.write_bytes(b"\x02\x00another layout" * 9)
    with pytest.raises(InputError, match="of unknown version"):
        check_sidecar(engine, **HERE)
    assert check_sidecar(engine, **HERE, require=False) is None


@pytest.mark.parametrize(
    ("content", "header"),
    [
        (PLAN, PlanHeader("tensorrt", "10.3.0.26")),
        (b"vtrt" + bytes(20) + bytes((1, 7, 1, 116)), PlanHeader("tensorrt_rtx", "1.7.1.116")),
        (PLAN[:27], None),
        (b"", None),
        (b"ftrt" + b"\1" + PLAN[5:], None),
        (b"ftrt" + bytes(60), None),
        (b"GGUF" + PLAN[4:], None),
    ],
)
def test_plan_header(content: bytes, header: PlanHeader | None) -> None:
    assert read_plan_header(content) == header


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 5000, "not JSON"),
        ("[]", "not a sidecar"),
        ('{"format": "irepdeploy.certificate"}', "not a sidecar"),
        ('{"format": "irepdeploy.sidecar", "version": 3}', "expected a sidecar of version 2, got 3"),
        ('{"format": "irepdeploy.sidecar", "version": 2}', "its digest differs"),
        ('{"format": "irepdeploy.sidecar", "version": 1}', "damaged sidecar: no flavour"),
    ],
)
def test_a_damaged_sidecar(engine: Path, text: str, reason: str) -> None:
    Path(sidecar_path(engine)).write_text(text)
    with pytest.raises(InputError, match=reason):
        check_sidecar(engine, **HERE)


@pytest.mark.parametrize("name", ["engine_sha256", "size_bytes", "command", "precision"])
def test_a_field_is_missing(engine: Path, name: str) -> None:
    value = without_digest()
    del value[name]
    Path(sidecar_path(engine)).write_text(json.dumps(value))
    with pytest.raises(InputError, match=f"damaged sidecar: .*{name}"):
        check_sidecar(engine, **HERE)


def test_later_fields_are_left_out() -> None:
    assert Sidecar.from_dict({**without_digest(), "added_later": 1}) == sidecar()
    assert {item.name for item in dataclasses.fields(Sidecar)} < set(sidecar().to_dict())


def test_an_engine_of_before_the_rooms_is_read() -> None:
    """Fetched by `jetson bench --build-only` of version 0.1 from a board of files."""
    engine = Path(__file__).parent / "assets" / "model_0.1.engine"
    found = check_sidecar(engine, version="8.5.2.2", flavour="tensorrt", compute_capability="7.2")
    assert found is not None and (found.precision, found.typing, found.gpu) == ("fp16", "weak", "Fake GPU")
    assert found.inputs == [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}]
    earlier = json.loads(Path(sidecar_path(engine)).read_text())
    assert {**found.to_dict(), "version": 1} == {**earlier, "digest": found.to_dict()["digest"]}


@pytest.mark.parametrize("name", sorted(sidecar().to_dict()))
def test_a_changed_field_is_noticed(engine: Path, name: str) -> None:
    Path(sidecar_path(engine)).write_text(json.dumps({**sidecar().to_dict(), name: "else"}))
    with pytest.raises(InputError, match="sidecar"):
        read_sidecar(engine)
