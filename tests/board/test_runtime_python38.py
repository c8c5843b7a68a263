"""What the board's agent carries must run on Python 3.8 with no more than stdlib, numpy and onnxruntime."""

from __future__ import annotations

import pytest

from irepdeploy.jetson.agent_archive import carried_modules
from support.python38 import faults

CARRIED = carried_modules()


@pytest.mark.parametrize("name", CARRIED)
def test_carried_module_runs_on_the_board(name: str) -> None:
    if name != "irepdeploy":
        assert faults(CARRIED[name].read_text(encoding="utf-8"), CARRIED) == []


def test_nothing_else_is_carried() -> None:
    core = {"irepdeploy", "irepdeploy.errors", "irepdeploy.board.system", "irepdeploy.jetson"}
    parts = ("irepdeploy.runtime", "irepdeploy.jetson.agent")
    assert [name for name in CARRIED if name not in core and not name.startswith(parts)] == []
    assert {"irepdeploy.board.trt_runner", "irepdeploy.board.ort_runner", "irepdeploy.jetson.agent.main"} < set(CARRIED)
    assert "irepdeploy.runtime.torch_runner" not in CARRIED


@pytest.mark.parametrize(
    "line",
    [
        "match x:\n    case 1: pass",
        "import torch",
        "from irepdeploy.files import sha256",
        "from .. import protocol",
        "from collections.abc import Callable\nCall = Callable[[int], int]",
        "from irepdeploy.runtime.torch_runner import TorchRunner",
        "Feeds = dict[str, int]",
        "x: 'int' = list[int]()",
        "import collections\nX = collections.deque[int]",
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass A: pass",
        "import dataclasses\n@dataclasses.dataclass(kw_only=True)\nclass A: pass",
        "''.removeprefix('a')",
        "zip(a, b, strict=True)",
        "from functools import cache",
        "import tomllib",
        "X = int | None",
        "with (\n    a as b,\n    c as d,\n):\n    pass",
        "def f(x):\n    import onnx",
        "try:\n    pass\nexcept* ValueError:\n    pass",
    ],
)
def test_check_sees(line: str) -> None:
    assert faults("from __future__ import annotations\n" + line, CARRIED)


@pytest.mark.parametrize(
    "line",
    [
        "def f(x: list[int] | None) -> dict[str, int]: ...",
        "x: list[int] = []",
        "from irepdeploy.errors import InputError",
        "import onnxruntime",
        "if (y := 1): pass",
    ],
)
def test_check_lets_pass(line: str) -> None:
    assert faults("from __future__ import annotations\n" + line, CARRIED) == []


def test_check_wants_the_future_import() -> None:
    assert faults("'''Doc.'''\nX = 1", CARRIED) == ["no `from __future__ import annotations`"]
