from __future__ import annotations

import json
from pathlib import Path

import pytest

from irepdeploy.board.trtexec import arguments, read_times
from irepdeploy.errors import InputError

# As trtexec writes it: no commas after the first line, six digits.
EXCLUDED = """\
[
  { "startEnqMs" : 2003.11, "endEnqMs" : 2003.12, "startH2dMs" : 2003.15, "endH2dMs" : 2003.15
  , "startComputeMs" : 2003.15, "endComputeMs" : 2004.85, "startD2hMs" : 2004.85, "endD2hMs" : 2004.85
  , "h2dMs" : 0, "computeMs" : 1.70215, "d2hMs" : 0, "latencyMs" : 1.70215 }
, { "startEnqMs" : 2004.9, "endEnqMs" : 2004.92, "startH2dMs" : 2004.95, "endH2dMs" : 2004.95
  , "startComputeMs" : 2004.95, "endComputeMs" : 2007.85, "startD2hMs" : 2007.85, "endD2hMs" : 2007.85
  , "h2dMs" : 0, "computeMs" : 2.9, "d2hMs" : 0, "latencyMs" : 2.9 }
]
"""


def query(**changes: object) -> dict[str, object]:
    times = {"startEnqMs": 1.0, "endEnqMs": 1.25, "h2dMs": 0.5, "computeMs": 2.0, "d2hMs": 0.25, "latencyMs": 2.75}
    return {**times, **changes}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "times.json"


def test_times_without_transfers(path: Path) -> None:
    path.write_text(EXCLUDED)
    times = read_times(path)
    assert times.latency_ns == times.compute_ns == [1_702_150, 2_900_000]
    assert times.h2d_ns == times.d2h_ns == [0, 0]
    assert times.enqueue_ns == [10_000, 20_000]
    assert times.transfers == "excluded"
    assert not times.warmup_included


def test_times_with_transfers(path: Path) -> None:
    path.write_text(json.dumps([query(), query(h2dMs=0, d2hMs=0.125, latencyMs=2)]))
    times = read_times(path)
    assert times.latency_ns == [2_750_000, 2_000_000]
    assert times.compute_ns == [2_000_000] * 2
    assert (times.h2d_ns, times.d2h_ns) == ([500_000, 0], [250_000, 125_000])
    assert times.enqueue_ns == [250_000] * 2
    assert times.transfers == "included"
    # Either direction alone is a transfer too.
    path.write_text(json.dumps([query(h2dMs=0)]))
    assert read_times(path).transfers == "included"


def test_old_versions_wrote_their_warm_up_too(path: Path) -> None:
    path.write_text(json.dumps([query(endToEndMs=3.0)]))
    assert read_times(path).warmup_included


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "truncated"),
        (EXCLUDED[:-40], "truncated"),
        ("{}", "not a list"),
        ("[]", "no query was timed"),
        ("[7]", "expected a time latencyMs"),
        (json.dumps([query(), query(computeMs="fast")]), "expected a time computeMs, got 'fast'"),
        (json.dumps([query(), query(computeMs=None)]), "expected a time computeMs"),
        (json.dumps([query(), query(h2dMs=True)]), "expected a time h2dMs"),
        (json.dumps([query(), query(latencyMs=-1)]), "expected a time latencyMs, got -1"),
        (json.dumps([query(), query(latencyMs=float("nan"))]), "expected a time latencyMs, got nan"),
        (json.dumps([query(), {"name": "conv", "timeMs": 1.0}]), "expected a time latencyMs"),
        ("[" * 100_000, "truncated"),
    ],
)
def test_what_is_no_such_file_is_named(path: Path, text: str, what: str) -> None:
    path.write_text(text)
    with pytest.raises(InputError, match=what) as caught:
        read_times(path)
    assert str(path) in caught.value.where
    assert caught.value.hint


def test_the_query_is_named(path: Path) -> None:
    path.write_text(json.dumps([query(), query(d2hMs=None)]))
    with pytest.raises(InputError) as caught:
        read_times(path)
    assert caught.value.where == f"{path}, query 2"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_times(tmp_path / "missing.json")
    with pytest.raises(InputError, match="cannot read"):
        read_times(tmp_path)


MEASURING = {"--warmUp=2000", "--duration=10", "--iterations=64", "--exportTimes=t.json"}


@pytest.mark.parametrize(
    ("version", "transfers", "flags"),
    [
        ("8.5.2.2", "excluded", {"--useSpinWait", "--useCudaGraph", "--noDataTransfers"}),
        ("10.3", "excluded", {"--useSpinWait", "--useCudaGraph", "--noDataTransfers"}),
        ("11.1", "excluded", set()),
        ("8.5.2.2", "included", {"--useSpinWait", "--useCudaGraph", "--exposeDMA"}),
        ("11", "included", {"--includeDataTransfers", "--exposeDMA"}),
    ],
)
def test_every_version_measures_alike(version: str, transfers: str, flags: set[str]) -> None:
    words = arguments(version, None, engine="m.engine", transfers=transfers, times="t.json")
    assert words[0] == "--loadEngine=m.engine"
    assert set(words[1:]) == MEASURING | flags
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("version", "given", "flags"),
    [
        ("8.5", {}, ["--noTF32"]),
        ("8.5", {"tf32": True}, []),
        ("8.5", {"precision": "fp16"}, ["--fp16", "--noTF32"]),
        ("8.5", {"precision": "int8", "tf32": True}, ["--int8"]),
        ("10.9", {"precision": "fp16", "tf32": True}, ["--fp16"]),
        ("10.9", {"precision": "fp16", "typed": True, "tf32": True}, ["--stronglyTyped"]),
        # The flags are gone: the ONNX carries the precision.
        ("11.1", {"precision": "fp16", "tf32": True}, []),
        ("11.1", {"precision": "int8", "typed": True}, ["--noTF32"]),
        ("8.2", {"workspace_mib": 512, "tf32": True}, ["--workspace=512"]),
        ("8.4", {"workspace_mib": 512, "tf32": True}, ["--memPoolSize=workspace:512"]),
        ("8.5", {"shapes": {"a": (1, 3), "b": (4,)}, "tf32": True}, ["--shapes=a:1x3,b:4"]),
        ("8.5", {"dla": 0, "tf32": True}, ["--useDLACore=0", "--allowGPUFallback"]),
        ("8.5", {"engine": "m.engine", "tf32": True}, ["--saveEngine=m.engine"]),
    ],
)
def test_what_is_built(version: str, given: dict[str, object], flags: list[str]) -> None:
    words = arguments(version, "m.onnx", times="t.json", **given)
    measuring = arguments(version, None, engine="x", times="t.json")[1:]
    assert words == ["--onnx=m.onnx", *flags, *measuring]


def test_a_loaded_engine_is_not_built_again() -> None:
    words = arguments("8.5", None, engine="e", precision="fp16", workspace_mib=1, dla=1, times="t")
    assert words[:2] == ["--loadEngine=e", "--useDLACore=1"]
    assert not {"--fp16", "--noTF32", "--memPoolSize=workspace:1", "--allowGPUFallback"} & set(words)


def test_seconds_are_whole_ones() -> None:
    assert "--duration=3" in arguments("8.5", "m.onnx", seconds=2.5, times="t")


@pytest.mark.parametrize(
    ("version", "onnx", "given"),
    [
        ("seven", "m.onnx", {}),
        ("", "m.onnx", {}),
        ("7.1", "m.onnx", {}),
        ("12.0", "m.onnx", {}),
        ("8.5", None, {}),
        ("8.5", "m.onnx", {"precision": "fp8"}),
        ("8.5", "m.onnx", {"transfers": "none"}),
        ("8.5", "m.onnx", {"typed": True}),
    ],
)
def test_what_cannot_be_asked_for(version: str, onnx: str | None, given: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        arguments(version, onnx, times="t", **given)
    assert caught.value.hint
