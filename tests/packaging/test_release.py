"""A tag becomes a version, and its changelog section the release notes; nothing else may publish."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
CHANGELOG = """# Changelog

## [Unreleased]

- not yet

## [1.2.3] - 2026-12-01

### Added
- what is new

## [1.2] - 2026-11-01

- what was new
"""


def step(containing: str) -> dict[str, Any]:
    """The step of the build whose command holds a text."""
    (found,) = (step for step in WORKFLOW["jobs"]["build"]["steps"] if containing in step.get("run", ""))
    return found


@pytest.mark.parametrize(
    ("tag", "notes"),
    [
        ("v1.2.3", "\n### Added\n- what is new\n\n"),
        ("v1.2", "\n- what was new\n"),
        ("v1.2.4", None),
        ("v1.2.3rc1", None),
    ],
)
def test_notes_are_the_section_of_the_version(tmp_path: Path, tag: str, notes: str | None) -> None:
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    command = ["bash", "-e", "-o", "pipefail", "-c", step("awk")["run"]]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "GITHUB_REF_NAME": tag}, check=False)
    assert (done.returncode == 0) is (notes is not None)
    assert notes is None or (tmp_path / "notes.md").read_text() == notes


def test_only_a_tag_publishes_what_was_checked_and_no_job_that_builds_may() -> None:
    # YAML 1.1 reads `on` as true.
    assert WORKFLOW[True] == {"push": {"tags": ["v*"]}}
    build, publish = WORKFLOW["jobs"]["build"], WORKFLOW["jobs"]["publish"]
    assert WORKFLOW["permissions"] == {"contents": "read"} and "permissions" not in build
    assert step("make package") and publish["needs"] == "build"
    assert publish["permissions"]["id-token"] == "write" and publish["environment"] == "release"
    assert not any("secrets." in str(job) for job in WORKFLOW["jobs"].values())
    used = [each["uses"].partition("@")[0] for each in publish["steps"] if "uses" in each]
    assert used.index("actions/attest-build-provenance") < used.index("pypa/gh-action-pypi-publish")


@pytest.mark.slow
def test_the_version_is_that_of_the_newest_tag(tmp_path: Path) -> None:
    pytest.importorskip("setuptools_scm")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def version() -> str:
        command = [sys.executable, "-m", "setuptools_scm"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    def git(*args: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *args], cwd=tmp_path, check=True, capture_output=True)

    assert version() == "0.2.0.dev0"
    git("init")
    git("add", "pyproject.toml")
    git("commit", "-m", "one")
    assert version().startswith("0.2.0.dev1+g")
    git("tag", "v3.2.1")
    assert version() == "3.2.1"
    git("commit", "--allow-empty", "-m", "two")
    assert version().startswith("3.2.2.dev1+g")
