"""Every command and every program of the READMEs works, page by page in their order, in one folder.

A block that is not run carries a comment ``<!-- not-run: reason -->`` right behind it; the number of those is fixed.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "bench/README.md", "jetson/README.md")}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n(<!-- not-run: [^\n]+ -->)?", re.MULTILINE | re.DOTALL)
BLOCKS = [(language, text, bool(mark)) for page in PAGES.values() for language, text, mark in BLOCK.findall(page)]
NOT_RUN = 1


def test_every_block_is_known() -> None:
    assert {language for language, _, _ in BLOCKS} <= {"sh", "python", "text"}
    assert sum(mark for _, _, mark in BLOCKS) == NOT_RUN
    assert len([1 for language, _, mark in BLOCKS if language in ("sh", "python") and not mark]) >= 4


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL))
    assert targets
    folder = (ROOT / page).parent
    assert [target for target in targets if "://" not in target and not (folder / target).exists()] == []


def test_every_exit_code_is_listed() -> None:
    from irepdeploy import errors

    codes = {getattr(errors, name).exit_code for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    codes |= {errors.EXIT_OK, errors.EXIT_BUG, errors.EXIT_INTERRUPTED}
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}


def test_commands_and_programs_work(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("irepdeploy")
    for language, text, skipped in BLOCKS:
        if skipped or language == "text":
            continue
        if language == "python":
            file = tmp_path / ("mine.py" if "class Mine" in text else "program.py")
            file.write_text(text)
            _run([sys.executable, str(file)], tmp_path, text)
            continue
        for line in filter(None, map(str.strip, text.splitlines())):
            words = shlex.split(line, comments=True)
            assert words[0] == "irepdeploy", f"only irepdeploy commands are run: {line}"
            _run([str(program), *words[1:]], tmp_path, line)
    written = ("build/model.onnx", "build-mine/model.onnx", "architecture.png", "search.svg", "results/records.jsonl")
    for name in written:
        assert (tmp_path / name).stat().st_size > 0


def _run(command: list[str], folder: Path, shown: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{shown}\n{done.stdout}\n{done.stderr}"
