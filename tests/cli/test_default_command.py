from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint
from typing import Annotated

import pytest
import typer

from irepdeploy.cli import application, main
from irepdeploy.cli.default_command import with_default


def cook(dish: str, hot: Annotated[bool, typer.Option("--hot")] = False) -> None:
    """Cook a dish. Example: irepdeploy kitchen soup"""
    print(f"cook {dish} {hot}")


def compare(first: str, second: str = "nothing") -> None:
    """Compare two dishes."""
    print(f"compare {first} {second}")


@pytest.fixture(autouse=True)
def kitchen(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("fake_kitchen")
    module.kitchen = with_default(cook, compare=compare)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_kitchen", module)
    point = EntryPoint("kitchen", "fake_kitchen:kitchen", "irepdeploy.commands")
    monkeypatch.setattr(application, "entry_points", lambda group: [point])


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        (["soup"], "cook soup False"),
        (["soup", "--hot"], "cook soup True"),
        (["--hot", "soup"], "cook soup True"),
        (["--", "compare"], "cook compare False"),
        (["./compare"], "cook ./compare False"),
        (["compare", "soup"], "compare soup nothing"),
        (["compare", "soup", "--second", "bread"], "compare soup bread"),
        (["compare", "compare"], "compare compare nothing"),
    ],
)
def test_a_line_is_the_defaults_unless_it_begins_with_another_command(
    line: list[str], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kitchen", *line]) == 0
    assert capsys.readouterr().out.strip() == printed


@pytest.mark.parametrize(
    ("line", "usage", "said"),
    [
        ([], "irepdeploy kitchen [OPTIONS] {dish}", "dish"),
        (["--cold"], "irepdeploy kitchen [OPTIONS] {dish}", "--cold"),
        (["soup", "bread"], "irepdeploy kitchen [OPTIONS] {dish}", "bread"),
        (["compare"], "irepdeploy kitchen compare [OPTIONS] {first}", "first"),
    ],
)
def test_wrong_use_is_2_with_the_usage_of_the_command_that_was_meant(
    line: list[str], usage: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["kitchen", *line]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[0] == f"Usage: {usage}"
    assert said in error.splitlines()[1].lower()
    assert "(default)" not in error


def test_help_is_that_of_the_default_and_lists_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kitchen", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: irepdeploy kitchen [OPTIONS] {dish}\n")
    assert "Cook a dish." in text and "--hot" in text
    assert "compare" in text and "Compare two dishes." in text
    assert "(default)" not in text
    assert main(["kitchen", "compare", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: irepdeploy kitchen compare [OPTIONS] {first}\n")
    assert main(["--help"]) == 0
    assert "Cook a dish." in capsys.readouterr().out
