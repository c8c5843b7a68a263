"""Fixtures of the tests of certified files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import irepdeploy
from irepdeploy.files import write_json
from irepdeploy.verify.certificate import Artefact, Certificate
from support.engine_sidecar import make_sidecar
from support.networks import random_network


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained.pt and, in export/, its certified files, among them an engine that runs nowhere."""
    folder = tmp_path_factory.mktemp("certified")
    irepdeploy.save(random_network(branches="repvgg", stages=((4, 4), (8, 8))), folder / "trained.pt")
    out = folder / "export"
    made = irepdeploy.export_model(folder / "trained.pt", out, precision="fp32,fp16", simplify=False)
    with_engine(out, made).save(out / "certificate.json")
    return folder


def with_engine(out: Path, made: Certificate) -> Certificate:
    """Add an engine and its sidecar to what an export certified."""
    content = bytes(range(256)) * 20
    engine, sidecar = out / "model.fp16.engine", out / "model.fp16.engine.json"
    engine.write_bytes(content)
    write_json(sidecar, make_sidecar(content).to_dict())
    built = {"status": "built", "engines": [{"engine": engine.name, "precision": "fp16"}]}
    added = [Artefact.of(engine), Artefact.of(sidecar)]
    return dataclasses.replace(made, artefacts=[*made.artefacts, *added], engine=built)
