"""Certificates and sidecars written by earlier versions still load."""

from __future__ import annotations

import json
from pathlib import Path

from irepdeploy.board.sidecar import read_sidecar
from irepdeploy.verify.certificate import Certificate

# Written by `irepdeploy export vgg6 --target rtx --precision fp32,fp16,int8 --no-simplify` of 0.1.0.
ASSETS = Path(__file__).parent / "assets"


def test_a_certificate() -> None:
    path = ASSETS / "certificate.json"
    certificate = Certificate.load(path)
    earlier = json.loads(path.read_text())
    assert {**certificate.to_dict(), "version": 1} == {**earlier, "digest": certificate.to_dict()["digest"]}
    assert certificate.digest is None
    assert certificate.ok and certificate.worst_layer == "stages.0.1.conv"
    assert [(hop.source, hop.result) for hop in certificate.hops] == [
        ("network", "fused state"),
        ("fused state", "model.onnx"),
        ("network", "model.onnx"),
        ("model.onnx", "model.fp16.onnx"),
        ("model.onnx", "model.int8.onnx"),
    ]
    assert set(certificate.precisions) == {"fp16", "int8"} and len(certificate.health) == 6
    assert certificate.engine["status"] == "built" and len(certificate.artefacts) == 10


def test_a_sidecar() -> None:
    sidecar = read_sidecar(ASSETS / "model.fp16.engine")
    assert sidecar is not None
    earlier = json.loads((ASSETS / "model.fp16.engine.json").read_text())
    assert {**sidecar.to_dict(), "version": 1} == {**earlier, "digest": sidecar.to_dict()["digest"]}
    assert (sidecar.precision, sidecar.flavour, sidecar.size_bytes) == ("fp16", "tensorrt_rtx", 688_908)
