"""All code on the board runs on Python 3.8; import-linter checks what it imports."""

from __future__ import annotations

from pathlib import Path

import pytest

import irepdeploy
from irepdeploy.jetson.agent_archive import carried_modules
from support.python38 import faults

CARRIED = carried_modules()


@pytest.mark.parametrize("name", CARRIED)
def test_carried_module_runs_on_python_38(name: str) -> None:
    assert faults(CARRIED[name].read_text(encoding="utf-8")) == []


def test_exactly_the_board_the_agent_the_errors_and_the_limits_are_carried() -> None:
    board = Path(irepdeploy.__file__).parent / "board"
    agent = CARRIED["irepdeploy.jetson.agent"].parent
    expected = {"irepdeploy", "irepdeploy.errors", "irepdeploy.limits"}
    expected |= {"irepdeploy.board", "irepdeploy.jetson", "irepdeploy.jetson.agent"}
    for package, folder in (("irepdeploy.board", board), ("irepdeploy.jetson.agent", agent)):
        expected |= {f"{package}.{path.stem}" for path in folder.rglob("*.py") if path.stem != "__init__"}
    assert set(CARRIED) == expected and len(expected) > 40


@pytest.mark.parametrize(
    "line",
    [
        "match x:\n    case 1: pass",
        "from collections.abc import Callable\nCall = Callable[[int], int]",
        "Feeds = dict[str, int]",
        "x: 'int' = list[int]()",
        "import collections\nX = collections.deque[int]",
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass A: pass",
        "''.removeprefix('a')",
        "zip(a, b, strict=True)",
        "from functools import cache",
        "import tomllib",
        "X = int | None",
        "x = {} | {}",
        "with (\n    a as b,\n    c as d,\n):\n    pass",
        "try:\n    pass\nexcept* ValueError:\n    pass",
    ],
)
def test_check_sees(line: str) -> None:
    assert faults("from __future__ import annotations\n" + line)


def test_check_allows_annotations_but_only_unevaluated_ones() -> None:
    source = "def f(x: list[int] | None) -> dict[str, int]: ...\nx: list[int] = []\nif (y := 1): pass\n"
    assert faults("from __future__ import annotations\n" + source) == []
    assert faults(source)
