"""`irepdeploy jetson` against a real server with the real agent."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import irepdeploy.jetson.boards as boards
import irepdeploy.jetson.measure as measure
import irepdeploy.jetson.ssh as ssh
from irepdeploy.cli import main
from irepdeploy.export.pipeline import export_model
from irepdeploy.files import sha256
from irepdeploy.jetson.agent_archive import build_agent
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.runs.record import read
from support.scale_model import scale_model

HOSTILE = ["two words.onnx", "it's $(touch x) `touch y`.onnx", 'a "quoted"\nline.onnx', "-rf.onnx"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a.onnx."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(ssh, "_PAUSES_S", (0.0, 0.0))
    Path("a.onnx").write_bytes(scale_model())
    return work


def bench_words(*words: str) -> list[str]:
    return ["--runner", "ort-cpu", "--seconds", "0", "board", *words]


def wait_for_agent(server: Any) -> None:
    """Wait until no bench is running on the other side."""
    with open(server.cache / "lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def jobs(server: Any) -> list[str]:
    return [name for name in server.files() if "/jobs/" in name or name.endswith(".part")]


def test_check_says_what_the_machine_is_and_nothing_is_to_restore(server: Any, jetson: Any) -> None:
    code, out, _ = jetson("check", "board")
    assert code == 0
    assert out.splitlines()[0] == "board"
    facts = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "board                       no Jetson" in out
    assert f"{sys.version_info[0]}.{sys.version_info[1]}." in facts["Python"]
    assert "ort-cpu" in facts["can run now"]
    assert "missing there" in out
    assert jetson("restore", "board")[:2] == (0, "board: nothing to restore\n")


def test_bench_measures_there_and_records_here(server: Any, folder: Path, jetson: Any) -> None:
    for name in HOSTILE:
        shutil.copy("a.onnx", name)
    before = sorted(os.listdir())
    code, out, err = jetson("bench", "--out", "r", "--seed", "3", *bench_words("--", "own=a.onnx", *HOSTILE))
    assert code == 0
    labels = ["own", *(" ".join(name.removesuffix(".onnx").split()) for name in HOSTILE)]
    assert out.splitlines()[0] == "board, input 1x1x8x8"
    assert out.splitlines()[3].split()[:3] == ["own", "fp32", "ort-cpu"]
    assert err[-2:] == ["records: r/records.jsonl", "next: irepdeploy report r"]
    assert any("copy" in line and "100/100" in line for line in err)
    records = read("r/records.jsonl")
    assert [record.model for record in records] == labels
    record = records[0]
    assert record.artefact_sha256 == sha256(Path("a.onnx"))
    assert len(record.samples_ns) >= 64
    assert record.conditions["host"] == "board" and record.conditions["seed"] == 3
    assert record.conditions["gate"]["ok"] is True and record.conditions["gate"]["samples"] > 8
    # No file name reached a shell.
    assert sorted(os.listdir()) == sorted([*before, "r"])
    assert not any(Path(name).name in ("x", "y") for name in server.files())
    assert not (Path.home() / "x").exists()
    # On the board: the agent, the model and its reference, under their digests, and nothing else.
    assert jobs(server) == []
    inside = ".cache/irepdeploy-agent/"
    left = [name.removeprefix(inside) for name in server.files() if len(Path(name).name) != 64]
    assert left == ["agent/" + build_agent().name, "lock"]
    # Existing files are not copied again; a board that fails does not stop the other, which is the same machine.
    inodes = {path: path.stat().st_ino for path in server.home.rglob("*") if path.is_file()}
    with server.config.open("a") as config:
        config.write("Host gone\n  HostName 127.0.0.1\n  Port 1\n")
    Path("hosts").write_text("127.0.0.1 # the same machine\ngone\n")
    words = ["--json", "--seed", "3", "--hosts", "hosts", "--runner", "ort-cpu", "--seconds", "0", "a.onnx"]
    code, out, err = jetson("bench", *words)
    assert code == 3
    assert not any("copy" in line for line in err)
    first, second = json.loads(out)["boards"]
    assert (first["host"], first["error"], first["rows"][0]["model"]) == ("127.0.0.1", None, "a")
    assert (second["host"], second["rows"]) == ("gone", []) and "not reachable" in second["error"]
    assert any("the samples were not saved: add --out DIR" in line for line in err)
    assert err[-1].startswith("irepdeploy: error: gone: not reachable")
    assert {path: path.stat().st_ino for path in server.home.rglob("*") if path.is_file()} == inodes
    code, out, _ = jetson("clean", "board")
    assert code == 0 and "MB removed" in out
    assert [name for name in server.files() if len(Path(name).name) == 64] == []


def test_without_tensorrt_nothing_else_is_taken(server: Any, folder: Path, jetson: Any) -> None:
    code, out, err = jetson("bench", "board", "a.onnx")
    assert code == 3
    assert out == ""
    assert err[-1].startswith("irepdeploy: error: board: runner trt: TensorRT is not installed")
    assert sum("error" in line for line in err) == 1


def test_a_gate_that_fails_is_a_verdict(
    server: Any, folder: Path, jetson: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = measure.reference_of
    wrong = scale_model(weight=2.01)

    def reference_of(model: Any, **how: Any) -> Any:
        from dataclasses import replace

        return replace(real(model, **how), expected=real(replace(model, content=wrong), **how).expected)

    monkeypatch.setattr(measure, "reference_of", reference_of)
    code, out, err = jetson("bench", *bench_words("a.onnx", "--out", "r"))
    assert code == 1
    assert "median" not in out
    assert err[-1].startswith("irepdeploy: error: board, a: ") and "differs by" in err[-1]
    assert not Path("r/records.jsonl").exists()


@pytest.mark.slow
def test_a_server_killed_in_the_middle_ends_in_one_line(
    server: Any, folder: Path, jetson: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.onnx").write_bytes(scale_model(weight=-1.0, depth=100))
    show = boards._Show.__call__

    def cut(self: Any, event: dict[str, Any]) -> None:
        if event.get("stage") == "warm-up":
            server.end()
        show(self, event)

    monkeypatch.setattr(boards._Show, "__call__", cut)
    code, out, err = jetson("bench", "board", "a.onnx", "--runner", "ort-cpu", "--seconds", "600", "--out", "r")
    assert code == 4
    assert err[-1].startswith("irepdeploy: error: board: the connection broke") and "measure again" in err[-1]
    assert not Path("r/records.jsonl").exists() and out == ""
    wait_for_agent(server)
    assert jobs(server) == []


def test_a_full_disk_over_there_ends_in_one_line(server: Any, folder: Path, jetson: Any) -> None:
    code, out, _ = jetson("check", "board", "--json")
    [value] = json.loads(out)
    assert (code, value["host"], value["error"], value["jetson"]) == (0, "board", None, False)
    assert value["runners"] == ["ort-cpu"]
    Path("big.onnx").write_bytes(scale_model(shape=("n", 1, 200, 200)))
    before = server.files()
    # In blocks of 512 bytes: less than the references of the large input, more than the agent.
    server.set_up("ulimit -f 2000")
    code, _, err = jetson("bench", *bench_words("big.onnx"))
    assert code == 4
    assert err[-1].startswith("irepdeploy: error: board: ") and "the disk is full" in err[-1]
    assert [name for name in server.files() if name not in before and len(Path(name).name) != 64] == []
    assert jobs(server) == []


@pytest.mark.parametrize("how", ["refused", "unknown key", "no python"])
def test_a_board_that_cannot_be_used_ends_in_one_line(server: Any, folder: Path, jetson: Any, how: str) -> None:
    if how == "refused":
        (server.folder / "authorized_keys").write_text("")
    elif how == "unknown key":
        (server.folder / "known_hosts").write_text("")
    else:
        server.far_program("python3", "exit 127")
    code, out, err = jetson("bench", *bench_words("a.onnx"))
    assert code == 3
    assert out == "" and len([line for line in err if "error" in line]) == 1
    assert err[-1].startswith("irepdeploy: error: board: ")
    assert server.files() == []


@pytest.mark.parametrize("words", [["a.onnx"], ["board"], ["-oProxyCommand=touch x", "a.onnx"], ["board", "a.pt"]])
def test_a_wrong_line_is_refused_before_anything_is_reached(
    server: Any, folder: Path, jetson: Any, words: list[str]
) -> None:
    server.forget()
    code, _, err = jetson("bench", "--runner", "ort-cpu", "--", *words)
    assert code == 2
    assert err[-1].startswith("irepdeploy: error: ")
    assert not any("Connection from" in line for line in server.lines)
    assert os.listdir() == ["a.onnx"]


@pytest.mark.parametrize(
    "words",
    [
        ["--runner", "tflite"], ["--via", "magic"], ["--runner", "ort-cpu", "--dla", "0"], ["--build-only"],
        ["--runner", "ort-cpu", "--via", "trtexec"], ["--dla", "0"], ["--build-only", "--power", "--out", "r"],
        ["--precision", "fp8"], ["--clocks", "fast"], ["--precision", "int8"], ["--inputs", "none.npy"], ["--dla", "2"],
        ["--precision", ","], ["--seconds", "inf"],
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(folder: Path, words: list[str]) -> None:
    assert main(["jetson", "bench", "board.invalid", "a.onnx", *words]) == 2
    assert os.listdir() == ["a.onnx"]


def test_a_detector_that_gives_detections_is_measured(server: Any, folder: Path, jetson: Any) -> None:
    torch.manual_seed(0)
    net = randomize_statistics(build_plain("centernet_vgg6", input_shape=(1, 32, 32))).eval()
    export_model(net, "exported", detections="nms", simplify=False, collapse=False)
    code, _, err = jetson("bench", "--out", "r", *bench_words("exported/model.onnx"))
    assert code == 0, err
    (record,) = read("r/records.jsonl")
    assert record.conditions["gate"]["ok"] is True and record.conditions["gate"]["samples"] > 8
