"""The shared fixtures do what CONTRIBUTING.md says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

Require = Callable[[str, str], str]


def test_requires_debian_gives_the_path(requires_debian: Require) -> None:
    assert requires_debian("python3", sys.executable) == sys.executable


def test_requires_debian_skips_with_the_line_to_type(requires_debian: Require, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match=r"make system-deps.*apt-get install no-such-package"):
        requires_debian("no-such-package", "no-such-program")


def test_requires_debian_fails_under_ci(requires_debian: Require, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="make system-deps"):
        requires_debian("no-such-package", "no-such-program")


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
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
