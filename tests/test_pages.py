"""Every code block of the README, of the pages in docs/ and of the notebooks works.

The blocks of a page run in order in one folder, Python blocks in one namespace. A block with ``title="FILE"`` is
written to that file. After a block, ``<!-- slow: reason -->`` leaves it to `make nightly`, and
``<!-- not-run: reason -->`` tells why it cannot run here; these are rare. ``<!-- files of: PAGE -->`` first writes the
files of another page. `text` blocks are output.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from irepdeploy import errors
from irepdeploy.cli import main
from irepdeploy.parsing.yaml_text import parse_yaml
from irepdeploy.recipe import load_recipe

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("*.ipynb"))]
_BLOCK = re.compile(
    r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```\n(?:<!-- (not-run|slow): ([^\n]+) -->)?', re.MULTILINE | re.DOTALL
)
_FILES_OF = re.compile(r"<!-- files of: (\S+) -->")
_INDENTED = re.compile(r"^\n {4,}(?:\$ |irepdeploy |python |pip |import |from |make )", re.MULTILINE)
MOST_NOT_RUN = 20
README_LINES = 150
# Smaller still than what `scale=smoke` makes of search and training.
SMALL = ["search.evolutions=2", "train.epochs=2", "data.options.train=50", "data.options.val=50"]


@dataclass(frozen=True)
class Block:
    """A code block: its language, its file, its text, and the mark after it."""

    language: str
    file: str
    text: str
    mark: str


def blocks(path: Path) -> list[Block]:
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        marks = ["slow" if "slow" in cell["metadata"].get("tags", ()) else "" for cell in cells]
        return [
            Block("python", "", "".join(cell["source"]), mark)
            for cell, mark in zip(cells, marks, strict=True)
            if cell["cell_type"] == "code"
        ]
    return [Block(language, file, text, mark) for language, file, text, mark, _ in _BLOCK.findall(path.read_text())]


BLOCKS = {path.name: blocks(path) for path in SOURCES}
TEXTS = {path.name: path.read_text() for path in SOURCES}


def runs(name: str, *, slow: bool) -> list[Block]:
    return [each for each in BLOCKS[name] if each.language != "text" and each.mark in ("", "slow" * slow)]


def test_the_readme_is_one_screen() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= README_LINES


def test_every_block_is_known() -> None:
    found = [block for page in BLOCKS.values() for block in page]
    assert {block.language for block in found} <= {"sh", "python", "text", "yaml", "cpp"}
    assert sum(block.mark == "not-run" for block in found) <= MOST_NOT_RUN
    for name, text in TEXTS.items():
        fences = len(re.findall(r"^ *```", text, re.MULTILINE))
        assert name.endswith(".ipynb") or fences == 2 * len(BLOCKS[name]), f"{name}: a fence that is not a block"
        assert not _INDENTED.search(text), f"{name}: commands without a fence, which would not be run"


@pytest.mark.parametrize("name", [path.name for path in SOURCES if path.suffix == ".md"])
def test_links_lead_somewhere(name: str) -> None:
    text = re.sub(r"```.*?```", "", TEXTS[name], flags=re.DOTALL)
    folder = ROOT if name == "README.md" else ROOT / "docs"
    made = {"commands.md", "recipe-keys.md"} | {path.with_suffix(".md").name for path in SOURCES}
    targets = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    assert [target for target in targets if target not in made and not (folder / target).exists()] == []


def test_every_exit_code_is_listed() -> None:
    public = [getattr(errors, name) for name in errors.__all__]
    codes = {each.exit_code for each in public if isinstance(each, type)}
    codes |= {errors.EXIT_OK, errors.EXIT_BUG, errors.EXIT_INTERRUPTED}
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", TEXTS["exit-codes.md"], re.MULTILINE)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder from which modules are imported; imported modules are removed afterwards."""
    from irepdeploy.export.target.target import TARGETS
    from irepdeploy.onnx_collapse.operators import OPERATORS
    from irepdeploy.reparam.branches import BRANCHES
    from irepdeploy.search.strategies import STRATEGIES

    # Pages show how to add to these.
    tables: list[dict[str, Any]] = [TARGETS, OPERATORS, BRANCHES, STRATEGIES]
    copies = [dict(table) for table in tables]
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for table, copy in zip(tables, copies, strict=True):
        table.clear()
        table.update(copy)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("name", [name for name in BLOCKS if runs(name, slow=False)])
def test_blocks_work(name: str, folder: Path) -> None:
    _run_page(name, folder, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BLOCKS if len(runs(name, slow=True)) > len(runs(name, slow=False))])
def test_slow_blocks_work(name: str, folder: Path) -> None:
    _run_page(name, folder, slow=True)


def _run_page(name: str, folder: Path, *, slow: bool) -> None:
    for other in _FILES_OF.findall(TEXTS[name]):
        for block in BLOCKS[other]:
            if block.file:
                (folder / block.file).write_text(block.text)
    # As a module, so that classes which a page defines can be found by their name.
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in runs(name, slow=slow):
        if block.file:
            (folder / block.file).write_text(block.text)
        if block.language == "python" and not block.file:
            exec(compile(block.text, name, "exec"), namespace)
        elif block.language == "yaml":
            _check_yaml(block, folder)
        elif block.language == "sh":
            for line in filter(None, map(str.strip, block.text.replace("\\\n", " ").splitlines())):
                _run_line(line)


def _check_yaml(block: Block, folder: Path) -> None:
    content = parse_yaml(block.text.encode())
    assert isinstance(content, dict)
    if "net" in content:
        (folder / "recipe.yaml").write_text(block.text)
        load_recipe(folder / "recipe.yaml")


def _run_line(line: str) -> None:
    program, *words = shlex.split(line, comments=True)
    if program == "python":
        runpy.run_path(words[0], run_name="__main__")
    elif program == "pytest":
        _run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words])
    else:
        assert program == "irepdeploy", f"only irepdeploy, python FILE and pytest FILE are run: {line}"
        words += SMALL if "scale=smoke" in words else []
        # In this process, where torch is imported; but one of its own finds a network of the user's.
        if words[0] == "export" and "--model" in words:
            _run([str(Path(sys.executable).with_name("irepdeploy")), *words])
        else:
            assert main(words) == 0, words


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
