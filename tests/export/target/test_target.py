"""Targets as data, and the command line for a board."""

from __future__ import annotations

import shlex
from dataclasses import replace

import onnx
import pytest

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.export.target.target import TARGETS, Target, installed_target, target_of, trtexec_line
from irepdeploy.onnx_graph.forms import FORMS

SPEC = TensorSpec("input", (None, 3, 224, 224))


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_every_target_is_consistent(target: Target) -> None:
    low, high = target.allowed_opsets
    assert low <= target.opset <= high and target.ir_version >= 8
    assert target.forbidden <= FORMS.keys()
    assert {"fp32", "fp16", "int8"} == set(target.precisions)
    assert target.engine in (None, "TensorRT", "TensorRT-RTX")
    if target.operators is not None:
        known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
        # From other domains, or newer than the oldest supported onnx.
        newer = {"CausalConvWithState", "LinearAttention", "Mish", "Swish"}
        assert target.operators - known <= newer


def test_the_targets_by_name() -> None:
    assert list(TARGETS) == ["ort", "trt", "trt-11", "trt-10", "xavier-jp5", "orin-jp6", "rtx"]
    xavier = target_of("xavier-jp5")
    assert (xavier.opset, xavier.allowed_opsets, xavier.ir_version) == (13, (13, 17), 8)
    assert xavier.tensorrt == ("8.5.2",) and xavier.on_board and "Reduce with axes as input" in xavier.forbidden
    assert xavier.operators is not None and "Gelu" not in xavier.operators and "GridSample" in xavier.operators
    # Both the support matrix and the importer of onnx-tensorrt 8.5-GA have them.
    assert {"HardSwish", "OneHot", "RandomNormalLike", "Reciprocal"} <= xavier.operators
    ten = target_of("trt-10").operators
    # The first in the parser of 10.0, the second later.
    assert ten is not None and "Mish" in ten and "HannWindow" not in ten
    with pytest.raises(InputError, match=r"unknown target 'nano'.*xavier-jp5"):
        target_of("nano")


def test_routes() -> None:
    assert str(target_of("rtx").route("fp16")) == "typed graph"
    assert str(target_of("xavier-jp5").route("fp16")) == "builder flag"
    assert str(target_of("xavier-jp5").route("int8")) == "typed graph and builder flag"
    assert str(target_of("orin-jp6").route("fp32")) == "typed graph"
    with pytest.raises(InputError, match=r"no precision 'bf16'.*fp32, fp16, int8"):
        target_of("trt-11").route("bf16")


@pytest.mark.parametrize(
    ("version", "like"),
    [
        ("8.5.2.2", "xavier-jp5"),
        ("8.6.1", "orin-jp6"),
        ("9.3", "orin-jp6"),
        ("10.3.0.26", "trt-10"),
        ("11.4.0", "trt-11"),
        ("12.0", "trt-11"),
    ],
)
def test_what_is_installed_decides(version: str, like: str) -> None:
    target = installed_target(version)
    assert target.name == "trt" and target.tensorrt == (version,) and not target.on_board
    assert target.operators == target_of(like).operators and target.precisions == target_of(like).precisions
    assert target.opset == 13


@pytest.mark.parametrize("version", ["8.4.1", "7.0", "none"])
def test_versions_that_no_target_stands_for(version: str) -> None:
    with pytest.raises(InputError, match=version):
        installed_target(version)


def test_the_line_for_a_xavier() -> None:
    line = trtexec_line(target_of("xavier-jp5"), "model.onnx", "model.fp16.engine", precision="fp16")
    assert line == (
        "/usr/src/tensorrt/bin/trtexec --onnx=model.onnx --saveEngine=model.fp16.engine --fp16 --noTF32 "
        "--memPoolSize=workspace:1024 --profilingVerbosity=detailed --buildOnly"
    )


def flags(name: str | Target, **options: object) -> list[str]:
    target = name if isinstance(name, Target) else target_of(name)
    return shlex.split(trtexec_line(target, "m.onnx", "m.engine", **options))[3:]  # type: ignore[arg-type]


def test_the_flags_of_each_version() -> None:
    assert "--fp16" not in flags("xavier-jp5") and "--int8" in flags("xavier-jp5", precision="int8")
    assert "--skipInference" in flags("orin-jp6") and "--stronglyTyped" not in flags("orin-jp6", precision="fp16")
    assert "--stronglyTyped" in flags("trt-10", precision="fp16") and "--fp16" not in flags("trt-10", precision="fp16")
    assert "--stronglyTyped" not in flags("trt-11", precision="fp16")
    assert "--noTF32" in flags("trt-11") and "--noTF32" not in flags("trt-11", tf32=True)
    assert "--buildOnly" in flags(installed_target("8.5.3"))
    assert "--timingCacheFile=t.cache" in flags("trt", timing_cache="t.cache")
    assert "--memPoolSize=workspace:512" in flags("trt", workspace_mib=512)


def test_profiles_and_the_dla() -> None:
    found = flags("xavier-jp5", inputs=[SPEC, TensorSpec("n", (None,), "int64")], batch=(1, 4, 16), dla=1)
    assert "--minShapes=input:1x3x224x224,n:1" in found and "--maxShapes=input:16x3x224x224,n:16" in found
    assert "--useDLACore=1" in found and "--allowGPUFallback" in found
    for target in ("xavier-jp5", "orin-jp6"):
        with pytest.raises(InputError, match="does not accept QuantizeLinear"):
            flags(target, precision="int8", dla=0)
    for options in ({"dla": 2}, {"inputs": [SPEC._replace(name="a,b")], "batch": (1, 1, 1)}):
        with pytest.raises(InputError):
            flags("xavier-jp5", **options)
    with pytest.raises(InputError, match="0 DLA cores"):
        flags("trt-11", dla=0)


@pytest.mark.parametrize("path", ["a b/m.onnx", 'it\'s "m".onnx', "größe.onnx", "$(reboot).onnx", "-m.onnx"])
def test_no_name_of_a_file_reaches_the_shell(path: str) -> None:
    words = shlex.split(trtexec_line(target_of("orin-jp6"), path, f"{path}.engine"))
    assert words[1:3] == [f"--onnx={path}", f"--saveEngine={path}.engine"]


@pytest.mark.parametrize("name", ["ort", "rtx"])
def test_targets_without_trtexec(name: str) -> None:
    with pytest.raises(InputError, match="no trtexec"):
        flags(name)


def test_a_target_of_ones_own() -> None:
    own = replace(target_of("trt-11"), name="mine", opset=17)
    assert own.allowed_opsets == (9, 25) and Target("old", opset=12).allowed_opsets == (12, 12)
