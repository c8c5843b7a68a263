"""The shared fixtures work as described in CONTRIBUTING.md."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

Require = Callable[[str, str], str]


def test_requires_debian_gives_the_path(requires_debian: Require) -> None:
    assert requires_debian("python3", sys.executable) == sys.executable
    assert requires_debian("base-files", "/usr/share") == "/usr/share"


OUTCOMES = pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])


@OUTCOMES
def test_requires_debian_skips_or_under_ci_fails_with_the_line_to_type(
    ci: str, outcome: type[BaseException], requires_debian: Require, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"make system-deps.*apt-get install no-such-package"):
        requires_debian("no-such-package", "no-such-program")


@OUTCOMES
def test_what_needs_the_builder_without_it(
    ci: str,
    outcome: type[BaseException],
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugin = next(one for one in pytestconfig.pluginmanager.get_plugins() if hasattr(one, "requires_debian"))
    item = SimpleNamespace(get_closest_marker=lambda name: name == "trt" or None)
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(plugin, "assembled_folder", lambda: None)
    with pytest.raises(outcome, match="type `make trt`"):
        plugin.pytest_runtest_setup(item)
    monkeypatch.setattr(plugin, "assembled_folder", lambda: "build/trt")
    plugin.pytest_runtest_setup(item)
    monkeypatch.setattr(plugin, "assembled_folder", lambda: None)
    plugin.pytest_runtest_setup(SimpleNamespace(get_closest_marker=lambda name: None))


def test_a_file_stays_in_one_process_but_the_chains_of_the_readme_do_not(pytestconfig: pytest.Config) -> None:
    plugin = next(one for one in pytestconfig.pluginmanager.get_plugins() if hasattr(one, "requires_debian"))
    scheduling = object.__new__(plugin._Scheduling)
    ids = ["tests/a.py::b[1]", "tests/a.py::C::d", *(f"tests/test_pages.py::test_blocks_x[{i}]" for i in "yz")]
    assert [scheduling._split_scope(each) for each in ids] == ["tests/a.py", "tests/a.py", *ids[2:]]
