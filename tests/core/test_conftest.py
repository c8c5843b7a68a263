"""The shared fixtures do what CONTRIBUTING.md says."""

from __future__ import annotations

import sys
from collections.abc import Callable

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
