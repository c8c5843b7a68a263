"""Output that reads well on a terminal and in a log."""

from __future__ import annotations

import io
import json

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
