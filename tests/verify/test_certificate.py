"""The certificate: derived values, the round trip through JSON, digests, and invalid files."""

from __future__ import annotations

import json
import math
from pathlib import Path

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


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": "other"}, "not a certificate"),
        ({"version": 99}, "version 99"),
        ({"hops": [{}]}, "damaged"),
        ({"hops": None}, "damaged"),
        ({"hops": [{"source": "a", "result": "b", "inputs": [], "comparison": {}}]}, "damaged"),
        ({"artefacts": [{"file": "../../etc/passwd", "sha256": "", "size_bytes": 0}]}, "is not a file name"),
        ({"artefacts": [{"file": "..", "sha256": "", "size_bytes": 0}]}, "is not a file name"),
    ],
)
def test_what_is_no_certificate(tmp_path: Path, change: dict[str, object], named: str) -> None:
    value = {**certificate(hop()).to_dict(), **change}
    (tmp_path / "c.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=named):
        Certificate.load(tmp_path / "c.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe"])
def test_what_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(InputError, match=r"c\.json: not a certificate"):
        Certificate.load(tmp_path / "c.json")
