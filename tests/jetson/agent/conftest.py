"""The packed agent on a board made of files: as a process, like the desk runs it, or its bench in this process."""

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
import pytest
from onnx import TensorProto, helper, numpy_helper

from irepdeploy.board.board_files import BoardFiles
from irepdeploy.jetson.agent.bench import Bench
from irepdeploy.jetson.agent.bench_request import parse_bench
from irepdeploy.jetson.agent.cache import AgentCache
from irepdeploy.jetson.agent.events import EventStream
from irepdeploy.jetson.agent.overseer import Overseer
from irepdeploy.jetson.agent.probe import probe
from irepdeploy.jetson.agent_archive import build_agent
from support.fake_board import FakeBoard


@dataclass
class Answer:
    """The agent's exit code and events."""

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
    libraries: dict[str, Any]
    board: FakeBoard | None = None
    python: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def root(self) -> str:
        return "/" if self.board is None else str(self.board.root)

    def start(self, verb: str, request: object) -> subprocess.Popen[bytes]:
        """Start the agent's process and leave its stdin open."""
        command = [self.python, "-u", str(self.archive), verb, "--sysroot", self.root, "--cache", str(self.cache)]
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
        """Run the agent's process to its end."""
        process = self.start(verb, request)
        output, _ = process.communicate(raw, timeout=600)
        return Answer(process.returncode, [json.loads(line) for line in output.splitlines()])

    def bench(self, models: list[dict[str, Any]], **request: Any) -> Answer:
        """Run a bench in this process, which starts all the agent's other processes, or raise its error."""
        command = [self.python, "-u", str(self.archive), "--sysroot", self.root, "--cache", str(self.cache)]
        with pytest.MonkeyPatch.context() as patch, open(self.cache.with_name("events"), "w+b") as file:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            events = EventStream(file.fileno())
            value = Bench(
                parse_bench({"models": models, **request}),
                files=BoardFiles(self.root),
                cache=AgentCache(str(self.cache)),
                events=events,
                overseer=Overseer(events),
                command=command,
                libraries=self.libraries,
            ).run()
            events.send("result", value=value)
            file.seek(0)
            return Answer(0, [json.loads(line) for line in file])

    def place(self, content: bytes) -> str:
        """Put a file into the cache and return its digest."""
        digest = hashlib.sha256(content).hexdigest()
        (self.cache / "files").mkdir(parents=True, exist_ok=True)
        (self.cache / "files" / digest).write_bytes(content)
        return digest

    def left(self) -> list[str]:
        """Return what a run left in the cache besides the files that were stored."""
        paths = (path for path in self.cache.rglob("*") if path.is_file())
        names = [str(path.relative_to(self.cache)) for path in paths]
        return sorted(name for name in names if not name.startswith(("files/", "timing/")) and name != "lock")

    def end(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = build_agent()
    path = tmp_path_factory.mktemp("agent") / made.name
    path.write_bytes(made.content)
    return path


@pytest.fixture
def agent(archive: Path, tmp_path: Path) -> Iterator[Agent]:
    """The agent on this machine; its own benches find numpy and ONNX Runtime."""
    libraries = {"numpy": "1.17", "onnxruntime": "1.16", "cuda": {}, "tensorrt": None, "tensorrt_problem": None}
    made = Agent(archive, tmp_path / "cache", {**libraries, "dla_cores": None})
    yield made
    made.end()


@pytest.fixture
def board(tmp_path: Path) -> FakeBoard:
    return FakeBoard(tmp_path / "board")


@pytest.fixture(scope="session")
def xavier_libraries(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The findings of a probe on a board with a fake TensorRT 8.5.2."""
    folder = FakeBoard(tmp_path_factory.mktemp("probe") / "board").add_tensorrt()
    return probe(["env", f"PYTHONPATH={folder}", sys.executable, str(archive), "_probe"])


@pytest.fixture
def xavier(archive: Path, tmp_path: Path, board: FakeBoard, xavier_libraries: dict[str, Any]) -> Iterator[Agent]:
    """The agent on a board of files with a fake TensorRT 8.5.2."""
    environment = {"PYTHONPATH": str(board.add_tensorrt())}
    made = Agent(archive, tmp_path / "cache", xavier_libraries, board, environment=environment)
    yield made
    made.end()


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
    """Limits of a measurement too short to be meaningful."""
    limits = {"min_seconds": 0.0, "warmup_min_seconds": 0.0, "warmup_max_seconds": 0.01}
    return {"min_samples": 3, "max_samples": 5, **limits}
