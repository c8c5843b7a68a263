"""A search that is killed repeatedly ends with the same result as an undisturbed one."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 10


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "irepdeploy", "search", "digits", "scale=smoke", "search.evolutions=16"]
    line += ["--out", str(out), *options]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=out.parent)


def end(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    assert process.returncode == 0, said


def found(out: Path) -> dict[str, object]:
    """Everything that the run found; what a clock wrote is left out."""
    files = {path.name: path.read_text() for path in sorted((out / "population").iterdir())}
    files["best"] = (out / "best.json").read_text()
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    clock = ("time", "seconds", "images_per_second", "check")
    return {**files, "journal": [{key: line[key] for key in line if key not in clock} for line in lines]}


@pytest.mark.slow
def test_ten_kills_at_random_moments(tmp_path: Path) -> None:
    begin = time.monotonic()
    end(start(tmp_path / "alone"))
    whole = time.monotonic() - begin
    killed = tmp_path / "killed"
    moments = random.Random(0)
    kills = 0
    while kills < KILLS:
        process = start(killed, "--resume")
        # What was done is kept, so that late moments let a run end before it is killed.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=moments.uniform(0.25, 0.5) * whole)
            assert process.returncode == 0
            break
        process.kill()
        process.communicate()
        kills += 1
    end(start(killed, "--resume"))
    assert kills == KILLS
    assert found(killed) == found(tmp_path / "alone")
