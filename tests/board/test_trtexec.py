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
def test_a_wrong_file_is_named(path: Path, text: str, what: str) -> None:
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
    with pytest.raises(InputError, match="got a directory"):
        read_times(tmp_path)


MEASURING = {"--warmUp=2000", "--duration=10", "--iterations=64", "--exportTimes=t.json"}


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("8.5.2.2", {"--useSpinWait", "--useCudaGraph", "--noDataTransfers"}),
        ("10.3", {"--useSpinWait", "--useCudaGraph", "--noDataTransfers"}),
        ("11.1", set()),
        ("11", set()),
    ],
)
def test_every_version_measures_alike(version: str, flags: set[str]) -> None:
    words = arguments(version, "m.engine", times="t.json")
    assert words[0] == "--loadEngine=m.engine"
    assert set(words[1:]) == MEASURING | flags
    assert len(words) == len(set(words))


def test_shapes_dla_and_whole_seconds() -> None:
    words = arguments("8.5", "e", times="t", seconds=2.5, dla=1, shapes={"a": (1, 3), "b": (4,)})
    assert words[:3] == ["--loadEngine=e", "--shapes=a:1x3,b:4", "--useDLACore=1"] and "--duration=3" in words


@pytest.mark.parametrize("version", ["seven", "", "7.1", "12.0"])
def test_versions_that_are_not_supported(version: str) -> None:
    with pytest.raises(InputError) as caught:
        arguments(version, "m.engine", times="t")
    assert caught.value.hint
