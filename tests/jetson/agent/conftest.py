"""The packed agent, as the desk runs it, on a board of files."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from irepdeploy.jetson.agent_archive import build_agent
from support.fake_board import FakeBoard


@dataclass
class Answer:
    """What the agent said."""

    code: int
    events: list[dict[str, Any]]

    @property
    def value(self) -> dict[str, Any]:
        assert self.events[-1]["event"] == "result", self.events[-3:]
        return self.events[-1]["value"]

    @property
    def error(self) -> dict[str, Any]:
        assert self.events[-1]["event"] == "error", self.events[-1]
        return self.events[-1]

    def logs(self) -> list[str]:
        return [event["text"] for event in self.events if event["event"] == "log"]


@dataclass
class Agent:
    """The archive on one board."""

    archive: Path
    cache: Path
    board: FakeBoard | None = None
    python: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, verb: str, request: object) -> subprocess.Popen[bytes]:
        """The process, its stdin left open."""
        where = [] if self.board is None else ["--sysroot", str(self.board.root)]
        command = [self.python, "-u", str(self.archive), verb, *where, "--cache", str(self.cache)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        self.started.append(process)
        assert process.stdin is not None
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        process.stdin.write(line + b"\n")
        process.stdin.flush()
        return process

    def ask(self, verb: str, request: object, raw: bytes = b"") -> Answer:
        """One question, stdin closed after it."""
        process = self.start(verb, request)
        output, _ = process.communicate(raw, timeout=60)
        return Answer(process.returncode, [json.loads(line) for line in output.splitlines()])

    def put(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        assert self.ask("put", {"sha256": digest, "size_bytes": len(content)}, content).code == 0
        return digest

    def place(self, content: bytes) -> str:
        """What `put` does, without starting a process."""
        digest = hashlib.sha256(content).hexdigest()
        (self.cache / "files").mkdir(parents=True, exist_ok=True)
        (self.cache / "files" / digest).write_bytes(content)
        return digest

    def left(self) -> list[str]:
        """What a run left in the cache beside the files that were put."""
        paths = (path for path in self.cache.rglob("*") if path.is_file())
        names = [str(path.relative_to(self.cache)) for path in paths]
        return sorted(name for name in names if not name.startswith(("files/", "timing/")) and name != "lock")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = build_agent()
    path = tmp_path_factory.mktemp("agent") / made.name
    path.write_bytes(made.content)
    return path


@pytest.fixture
def agent(archive: Path, tmp_path: Path) -> Iterator[Agent]:
    """On this machine."""
    made = Agent(archive, tmp_path / "cache")
    yield made
    _end(made)


@pytest.fixture
def board(tmp_path: Path) -> FakeBoard:
    root = tmp_path / "board"
    root.mkdir()
    return FakeBoard(root)


@pytest.fixture
def xavier(archive: Path, tmp_path: Path, board: FakeBoard) -> Iterator[Agent]:
    """On a board of files with a fake TensorRT 8.5.2."""
    made = Agent(archive, tmp_path / "cache", board, environment={"PYTHONPATH": str(board.add_tensorrt())})
    yield made
    _end(made)


@pytest.fixture(scope="session")
def onnx_model() -> bytes:
    """x (1, 3, 8, 8) to y (1, 4): a convolution, ReLU and global pooling."""
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(kernel, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="session")
def npz() -> Callable[..., bytes]:
    def write(**arrays: np.ndarray) -> bytes:
        content = io.BytesIO()
        np.savez(content, **arrays)
        return content.getvalue()

    return write


@pytest.fixture
def quick() -> dict[str, Any]:
    """Limits of a measurement that nobody is to believe."""
    return {
        "min_samples": 3,
        "max_samples": 5,
        "min_seconds": 0.0,
        "warmup_min_seconds": 0.0,
        "warmup_max_seconds": 0.01,
    }


def _end(agent: Agent) -> None:
    for process in agent.started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
