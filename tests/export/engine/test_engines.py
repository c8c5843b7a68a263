"""Notes about the engines of an export."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from irepdeploy.board.runner import TensorSpec
from irepdeploy.export.engine import engine, engines
from irepdeploy.export.request.settings import Settings
from irepdeploy.export.target.target import target_of


@pytest.mark.parametrize(
    ("sizes", "note"),
    [
        ({"fp32": 300, "fp16": 200, "int8": 100}, None),
        ({"fp32": 300, "fp16": 200, "int8": 250}, "the int8 engine has 250 bytes, the fp16 one 200"),
        ({"fp32": 16_600_000, "int8": 54_700_000}, "the int8 engine has 54,700,000 bytes, the fp32 one 16,600,000"),
        ({"fp32": 300, "fp16": 200, "int8": 300}, "the int8 engine has 300 bytes, the fp16 one 200"),
        ({"fp32": 300, "int8": 300}, "the int8 engine has 300 bytes, the fp32 one 300"),
        ({"fp32": 300, "fp16": 400, "int8": 350}, "the int8 engine has 350 bytes, the fp32 one 300"),
        ({"fp32": 100, "fp16": 100}, None),
        ({"int8": 100}, None),
    ],
)
def test_int8_that_grows_is_advised_against(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], note: str | None
) -> None:
    def build(content: bytes, out: Path, *, precision: str, **options: Any) -> Any:
        described = {"precision": precision, "size_bytes": sizes[precision]}
        return SimpleNamespace(engine=out, sidecar=out.with_suffix(".json"), to_dict=lambda: described)

    monkeypatch.setattr(engine, "build_engine", build)
    monkeypatch.setattr(engines, "installed_version", lambda flavour: "1.7.1.116")
    model = tmp_path / "model.onnx"
    model.write_bytes(b"")
    found, _ = engines.engines_for(
        target_of("rtx"),
        dict.fromkeys(sizes, model),
        tmp_path,
        [TensorSpec("input", (1, 3, 8, 8))],
        "net",
        Settings(),
        lambda step: None,
    )
    assert found["status"] == "built"
    assert found["notes"] == ([] if note is None else [f"{note}: int8 is not advised here"])


@pytest.mark.parametrize(
    ("name", "package", "version", "typed"),
    [
        ("trt-10", "tensorrt==10.*", "10", True),
        ("trt-11", "tensorrt==11.*", "11", False),
        ("trt", "irepdeploy[trt]", "11", False),
    ],
)
def test_the_hint_of_a_missing_tensorrt_is_for_the_version_of_the_target(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, version: str, typed: bool
) -> None:
    monkeypatch.setattr(engines, "installed_version", lambda flavour: None)
    specs = [TensorSpec("input", (1, 3, 8, 8))]
    model = Path("model.fp16.onnx")
    found, _ = engines.engines_for(
        target_of(name), {"fp16": model}, Path(), specs, "net", Settings(), lambda step: None
    )
    assert found["status"] == "not built"
    assert found["hint"].startswith(f"pip install '{package}', or where TensorRT {version} is: /usr/src/")
    assert "--onnx=model.fp16.onnx" in found["hint"] and ("--stronglyTyped" in found["hint"]) is typed
