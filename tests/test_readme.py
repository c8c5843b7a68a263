"""Every command and every program of the READMEs works.

Blocks that use one another's files run in the READMEs' order in one folder; these chains are independent. A block that
is not run carries a comment ``<!-- not-run: reason -->`` right behind it; the number of those is fixed.
"""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from irepdeploy import errors
from irepdeploy.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "docs/measuring.md", "docs/jetson.md")}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```\n(<!-- not-run: [^\n]+ -->)?", re.MULTILINE | re.DOTALL)
BLOCKS = [(language, text, bool(mark)) for page in PAGES.values() for language, text, mark in BLOCK.findall(page)]
RUN = [(language, text) for language, text, skipped in BLOCKS if language != "text" and not skipped]
NOT_RUN = 1
# Smaller still than what `scale=smoke` makes of search and training.
SMALL = ["search.evolutions=2", "train.epochs=2", "data.options.train=50", "data.options.val=50"]

# Commands of the first chain that stand alone and take long; their own tests run smaller ones by day.
COSTLY = ("doctor", "inspect vgg6 --cost", "export vgg16 ")

# The blocks of each chain, by what they mention.
CHAINS = {
    "digits": r"\bruns/",
    "own network": r"class Mine\b|import Mine\b|mine:Mine",
    "collapse": r"\bunfused\.onnx",
    "suite": r"--suite table2",
    "records": r"--against",
}
WRITTEN = {
    "digits": ("build/model.onnx", "architecture.png", "search.svg", "results/records.jsonl"),
    "own network": ("build-mine/model.onnx",),
}


def test_every_block_is_known() -> None:
    assert {language for language, _, _ in BLOCKS} <= {"sh", "python", "text"}
    assert sum(mark for _, _, mark in BLOCKS) == NOT_RUN
    chains = [[chain for chain, mentions in CHAINS.items() if re.search(mentions, text)] for _, text in RUN]
    assert all(len(each) == 1 for each in chains), chains
    assert {chain for (chain,) in chains} == set(CHAINS)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL))
    assert targets
    folder = (ROOT / page).parent
    assert [target for target in targets if "://" not in target and not (folder / target).exists()] == []


def test_every_exit_code_is_listed() -> None:
    public = [getattr(errors, name) for name in errors.__all__]
    codes = {each.exit_code for each in public if isinstance(each, type)}
    codes |= {errors.EXIT_OK, errors.EXIT_BUG, errors.EXIT_INTERRUPTED}
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}


# These take 10 to 60 s each; the demo and the tests of each command run the same by day.
LONG = ("digits", "own network", "collapse")


@pytest.mark.parametrize("chain", [pytest.param(chain, marks=[pytest.mark.slow] * (chain in LONG)) for chain in CHAINS])
def test_commands_and_programs_work(chain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "mine", None)
    del sys.modules["mine"]
    for language, text in RUN:
        if not re.search(CHAINS[chain], text):
            continue
        if language == "python":
            file = tmp_path / ("mine.py" if "class Mine" in text else "program.py")
            file.write_text(text)
            runpy.run_path(str(file), run_name="__main__")
            continue
        for line in filter(None, map(str.strip, text.splitlines())):
            program, *words = shlex.split(line, comments=True)
            assert program == "irepdeploy", f"only irepdeploy commands are run: {line}"
            if chain == "digits" and " ".join(words).startswith(COSTLY):
                continue
            # In this process, where torch is imported; but one of its own finds a network of the user's.
            run = _run_whole if (chain, words[0]) == ("own network", "export") else _run_here
            run([*words, *SMALL] if "scale=smoke" in words else words)
    for name in WRITTEN.get(chain, ()):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("command", COSTLY)
def test_costly_commands_work(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = {line for language, text in RUN if language == "sh" for line in text.splitlines()}
    found = [line.split()[1:] for line in lines if line.startswith(f"irepdeploy {command}")]
    assert found
    for words in found:
        _run_here(words)


def _run_here(words: list[str]) -> None:
    assert main(words) == 0, words


def _run_whole(words: list[str]) -> None:
    command = [str(Path(sys.executable).with_name("irepdeploy")), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
