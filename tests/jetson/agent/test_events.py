"""Events: valid JSON whatever they contain; a reader that has exited is noticed."""

from __future__ import annotations

import json
import os

import pytest

from irepdeploy import errors
from irepdeploy.board.failure import from_named, named
from irepdeploy.errors import InputError, MissingError
from irepdeploy.jetson.agent.events import EventStream


def test_lines_of_json() -> None:
    read, write = os.pipe()
    events = EventStream(write)
    events.send("log", text="ein\nUmlaut: ü", value=float("nan"), nested=[{"x": (float("inf"), 1)}])
    events.log("two\nlines")
    events.progress("build", "build 1/2", model="m", share=0.5)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        lines = file.read().splitlines()
    assert all(line.isascii() for line in lines)
    first, second, third = map(json.loads, lines)
    assert first == {"event": "log", "text": "ein\nUmlaut: ü", "value": "nan", "nested": [{"x": ["inf", 1]}]}
    assert second == {"event": "log", "level": "info", "text": "two lines", "model": None}
    assert third["share"] == 0.5 and third["elapsed_s"] >= 0


def test_a_reader_that_is_gone() -> None:
    read, write = os.pipe()
    os.close(read)
    events = EventStream(write)
    events.send("log")
    assert events.gone
    events.send("log")
    os.close(write)


def test_a_reader_that_does_not_read() -> None:
    read, write = os.pipe()
    events = EventStream(write, limit_s=0.05)
    events.write(b"x" * (1 << 20))
    assert events.gone
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("name", [name for name in errors.__all__ if isinstance(getattr(errors, name), type)])
def test_errors_there_and_back(name: str) -> None:
    error = getattr(errors, name)("what", where="here", hint=None)
    value = json.loads(json.dumps(named(error)))
    again = from_named(value)
    assert type(again) is type(error) and again.line == error.line and value["code"] == error.exit_code


def test_an_error_of_another_version() -> None:
    assert from_named({**named(InputError("x")), "kind": "NewError"}).exit_code == 4
    assert from_named(named(MissingError("x"))).exit_code == 3
