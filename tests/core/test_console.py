"""Output is readable on a terminal and in a log."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from irepdeploy import console

Output = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_is_aligned_and_whole(capsys: Output) -> None:
    long = "a name that is far longer than any terminal is wide " * 5
    console.table("Latency", ["network", "ms", "factor"], [["plain", 1.5, "1.00x"], [long, "12.25", "-"]])
    captured = capsys.readouterr()
    title, head, rule, plain, other = captured.out.splitlines()
    assert title == "Latency"
    assert head.split() == ["network", "ms", "factor"]
    assert set(rule) == {"-", " "}
    assert other.startswith(long) and other.endswith("12.25       -")
    assert len(head) == len(rule) == len(plain) == len(other)
    assert plain.endswith("  1.5   1.00x")
    assert captured.err == ""


def test_a_table_without_rows(capsys: Output) -> None:
    console.table("Nothing", ["a", "b"], [])
    assert capsys.readouterr().out.splitlines() == ["Nothing", "a  b", "-  -"]


def test_a_row_that_does_not_fit_the_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="expected rows of 2 cells in table 'x'"):
        console.table("x", ["a", "b"], [["1"]])


def test_a_table_on_a_terminal_takes_text_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    console.table("T [bold]", ["name [x]", "ms"], [["[red]a[/red]", 1]])
    assert "[red]a[/red]" in terminal.getvalue() and "name [x]" in terminal.getvalue()


def test_json_goes_to_stdout_and_refuses_nan(capsys: Output) -> None:
    console.print_json({"a": [1, 2.5]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, 2.5]}
    with pytest.raises(ValueError, match="JSON"):
        console.print_json(float("nan"))


def test_news_go_to_stderr(capsys: Output) -> None:
    console.log("fusing")
    assert capsys.readouterr() == ("", "fusing\n")


def test_progress_in_a_log_is_a_line_now_and_then(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with console.progress() as display:
        task = display.task("epoch 1", total=100)
        for step in range(100):
            now += 0.125
            task.advance(note=f"loss {step}")
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second, last = captured.err.splitlines()
    assert first == "epoch 1: 40/100, 0:05, 0:08 left  loss 39"
    assert second == "epoch 1: 80/100, 0:10, 0:02 left  loss 79"
    assert last == "epoch 1: 100/100, 0:12  loss 99"


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with console.progress() as display:
        task = display.task("epoch [1]", total=2)
        task.advance(note="loss [0.5]")
        task.advance()
    assert "epoch [1]" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
    assert "loss [0.5]" in terminal.getvalue()


HOSTILE = "\x1b[31mred\x07\r\n\x85\u202e\u2028\x7f\udcff\U000e0001"
SHOWN = r"\x1b[31mred\x07\r\n\u0085\u202e\u2028\x7f\xff\U000e0001"


def test_nothing_that_a_terminal_would_obey_is_written(capsys: Output) -> None:
    console.say(HOSTILE)
    console.table(HOSTILE, [HOSTILE], [[HOSTILE]])
    console.log(HOSTILE)
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [SHOWN, SHOWN, SHOWN, "-" * len(SHOWN), SHOWN]
    assert captured.err.splitlines() == [SHOWN]


def test_nor_by_the_bar_and_what_is_printed_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, other = Terminal(), io.StringIO()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr("sys.stdout", other)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "400")
    with console.escaped_output(), console.progress() as display:
        display.task(HOSTILE, 2).advance(note=HOSTILE)
        console.log(HOSTILE)
        sys.stderr.write(HOSTILE + "\n")
        sys.stdout.write(HOSTILE)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert plain.count(SHOWN) >= 3 and not re.search("[\x07\x1b\x7f-\x9f\u2028\u202e]|red\r", plain)
    assert "\x1b[31m" not in terminal.getvalue()
    # In streamed text, only newlines are kept as they are.
    assert other.getvalue() == SHOWN.replace(r"\n", "\n")


def test_json_stays_json(capsys: Output) -> None:
    console.print_json({HOSTILE: HOSTILE})
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable() and json.loads(out) == {HOSTILE: HOSTILE}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_the_output_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr("sys.stdout", stream)
    with console.escaped_output():
        console.say("\u5c42 \xe9")
    shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert shown == {"ascii": "\\u5c42 \\xe9\n", "latin-1": "\\u5c42 \xe9\n", "utf-8": "\u5c42 \xe9\n"}[encoding]
    assert stream.errors == "strict"


def test_a_table_has_room_for_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr("sys.stdout", stream)
    console.table("T", ["name", "ms"], [["\u5c42", 1]])
    assert stream.buffer.getvalue().splitlines()[-1] == b"\\u5c42   1"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", ["a b", "it's", "-dash", "$(id)", "\x1b[31m", "new\nline", "\u202e", "q'\x1b\\'", "\udcff.onnx", "", "\x9b"]
)
def test_a_command_can_be_pasted_into_a_shell(name: str) -> None:
    line = console.command_line("export", Path(name) if name else name)
    assert line.isprintable()
    script = f"irepdeploy() {{ printf '%s|' \"$@\"; }}; {line}"
    # Bash reads escapes in the encoding that it was started with.
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, env=environment)
    assert os.fsdecode(done.stdout) == f"export|{'./' if name.startswith('-') else ''}{name}|"
