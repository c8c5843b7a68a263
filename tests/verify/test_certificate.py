"""The certificate: derived values, the round trip through JSON, digests, and invalid files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irepdeploy.errors import CheckFailed, InputError, MissingError
from irepdeploy.reparam.comparator import TOLERANCES, compare_outputs
from irepdeploy.verify.certificate import Artefact, Certificate, Hop


def hop(error: float = 0.0, layers: dict[str, float] | None = None) -> Hop:
    a = np.random.default_rng(0).standard_normal((8, 10))
    b = a + error * np.abs(a).max()
    comparison = compare_outputs({"logits": a}, {"logits": b}, TOLERANCES["float32"], layers=layers).to_dict()
    return Hop("network", "fused state", [{"name": "random", "count": 8, "shape": [1], "seed": 0}], comparison)


def certificate(*hops: Hop) -> Certificate:
    return Certificate({"net": "vgg6", "statistics": "random, seed 0"}, {"name": "ort"}, list(hops))


def test_the_verdict() -> None:
    good = certificate(hop(1e-6, {"a": 1e-7, "b": 3e-7}), hop(2e-6))
    assert good.ok and good.worst_layer == "b"
    assert good.max_rel_error == pytest.approx(2e-6)
    assert not certificate(hop(), hop(1e-3)).ok
    assert not certificate().ok and math.isnan(certificate().max_rel_error)
    good.failure = "the audit said no"
    assert not good.ok


def test_not_a_number_is_the_worst_error() -> None:
    broken = certificate(hop(1e-6), hop(math.nan))
    assert not broken.ok and math.isnan(broken.max_rel_error)


@pytest.mark.parametrize("error", [1e-6, math.nan, math.inf])
def test_to_json_and_back(tmp_path: Path, error: float) -> None:
    written = certificate(hop(error, {"a": error}))
    written.artefacts = [Artefact("model.onnx", "0" * 64, 3)]
    text = written.save(tmp_path / "certificate.json").read_text()
    value = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert value["ok"] is written.ok
    read = Certificate.load(tmp_path / "certificate.json")
    assert read.to_dict() == written.to_dict()
    assert read.artefacts == written.artefacts and read.hops[0].ok is written.ok
    assert read.max_rel_error == pytest.approx(written.max_rel_error, nan_ok=True)


def test_it_names_the_versions() -> None:
    assert set(certificate().versions) == {"python", "irepdeploy", "torch", "onnx", "onnxruntime", "onnxsim", "numpy"}


def test_files_are_held_against_their_digests(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"abc")
    written = certificate(hop())
    written.artefacts = [Artefact.of(tmp_path / "model.onnx")]
    written.check_files(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"abd")
    with pytest.raises(CheckFailed, match=r"model\.onnx.*digest differs"):
        written.check_files(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(CheckFailed, match="certified, but no such file"):
        written.check_files(tmp_path)


def test_an_engine_that_was_asked_for() -> None:
    written = certificate(hop())
    written.require_engine()
    written.engine = {"status": "not built", "reason": "no TensorRT"}
    with pytest.raises(MissingError, match="ONNX written and verified; no engine: no TensorRT"):
        written.require_engine()


def earlier(**changes: Any) -> dict[str, Any]:
    """Return a certificate of version 1, which has no digest."""
    value = {**certificate(hop()).to_dict(), "version": 1}
    del value["digest"]
    return {**value, **changes}


def artefact(**changes: Any) -> list[dict[str, Any]]:
    return [{"file": "model.onnx", "sha256": "0" * 64, "size_bytes": 3, **changes}]


def compared(**changes: Any) -> list[dict[str, Any]]:
    made = earlier()["hops"][0]
    return [{**made, "comparison": {**made["comparison"], **changes}}]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": "other"}, "not a certificate"),
        ({"version": 99}, "version 99"),
        ({"version": 2}, "no 'digest'"),
        ({"digest": "0" * 64}, "its digest differs"),
        ({"digest": None}, "its digest differs"),
        ({"hops": [{}]}, "damaged"),
        ({"hops": None}, "expected hops to be a list, got NoneType"),
        ({"hops": [{"source": "a", "result": "b", "inputs": [], "comparison": {}}]}, "damaged"),
        ({"hops": compared(max_rel_error=1.0)}, "its error is above what is allowed"),
        ({"hops": compared(max_rel_error="nan")}, "its error is above what is allowed"),
        ({"hops": compared(tolerance={"max_rel_error": "little"})}, "damaged"),
        ({"hops": compared(tolerance={"max_rel_error": 10**400})}, "damaged"),
        ({"hops": compared(max_rel_error=10**400)}, "damaged"),
        ({"hops": compared(tolerance={"max_rel_error": 1, "min_cosine": []})}, "damaged"),
        ({"hops": [{**compared()[0], "inputs": [1]}]}, "list of groups"),
        ({"hops": [{**compared()[0], "result": 1}]}, "named forms"),
        ({"artefacts": artefact(file="../../etc/passwd")}, "is not a file name"),
        ({"artefacts": artefact(file="..")}, "is not a file name"),
        ({"artefacts": artefact(file="")}, "is not a file name"),
        ({"artefacts": artefact(file="a\0b")}, "is not a file name"),
        ({"artefacts": artefact(file=1)}, "damaged"),
        ({"artefacts": artefact(sha256="")}, "is not a SHA-256"),
        ({"artefacts": artefact(sha256=None)}, "damaged"),
        ({"artefacts": artefact(size_bytes=True)}, "is not a size in bytes"),
        ({"source": None}, "expected source to be a dict"),
        ({"source": {"file": 1}}, "expected source.file to be a str, got int"),
        ({"versions": {"torch": 2}}, "versions"),
        ({"engine": {}}, "damaged certificate: no 'status'"),
        ({"failure": 1}, "expected failure to be a str"),
        ({"created": None}, "expected created to be a str"),
        ({"onnx": [[]]}, "expected onnx to be a dict"),
    ],
)
def test_what_is_no_certificate(tmp_path: Path, change: dict[str, object], named: str) -> None:
    Certificate.from_dict(earlier())
    (tmp_path / "c.json").write_text(json.dumps(earlier(**change)))
    with pytest.raises(InputError, match=named):
        Certificate.load(tmp_path / "c.json")


def test_nesting_without_end(tmp_path: Path) -> None:
    for levels, said in ((100, "damaged certificate: nested more than 64 levels deep"), (100_000, "not a certificate")):
        text = json.dumps(earlier(onnx={"deep": 0})).replace('"deep": 0', '"deep": ' + "[" * levels + "]" * levels)
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(InputError, match=said):
            Certificate.load(tmp_path / "c.json")


@pytest.mark.parametrize("name", sorted(certificate().to_dict()))
def test_a_changed_field_is_noticed(name: str) -> None:
    value = certificate(hop()).to_dict()
    with pytest.raises(InputError, match="certificate"):
        Certificate.from_dict({**value, name: "else"})
    del value[name]
    with pytest.raises(InputError, match="certificate"):
        Certificate.from_dict(value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe"])
def test_what_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(InputError, match=r"c\.json: not a certificate"):
        Certificate.load(tmp_path / "c.json")
