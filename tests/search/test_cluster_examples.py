"""The examples for SLURM and Kubernetes: their syntax is valid, and all our commands and options in them exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser
from typer.main import get_command

from irepdeploy.search.command import search
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.jobs import Job

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"
FILES = sorted(FOLDER.iterdir())


def words_of(path: Path) -> Iterator[list[str]]:
    """Yield the words of each command in an example, with its variables expanded as by the shell."""
    text = path.read_text()
    if path.suffix == ".yaml":
        lines = [shlex.join(line) if line[0] != "/bin/bash" else line[2] for line in _commands(yaml.safe_load(text))]
    else:
        lines = [line for line in text.replace("\\\n", " ").splitlines() if not line.startswith("#")]
    for line in lines:
        line = re.sub(r"\$\(\(.*?\)\)|\$\{?\w+\}?", "1", line)
        if "irepdeploy search" in line:
            yield shlex.split(line)


def _commands(value: Any) -> Iterator[list[str]]:
    if isinstance(value, dict):
        if isinstance(value.get("command"), list):
            yield value["command"]
        for each in value.values():
            yield from _commands(each)
    elif isinstance(value, list):
        for each in value:
            yield from _commands(each)


def check_options(words: list[str]) -> None:
    """Parse the arguments of `irepdeploy search` without running it."""
    group: Any = get_command(search)
    name = words[0] if words[0] in group.commands else "(default)"
    context = group.commands[name].make_context(name, words[1:] if name == words[0] else words)
    assert recipe_path(context.params["recipe"]).exists()
    if context.params.get("job"):
        assert Job.of(context.params["job"]).count == 20 == len(context.params["strategies"].split(",")) * 5
    assert context.params["resume"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_can_be_read_and_its_options_exist(path: Path) -> None:
    if path.suffix == ".sbatch":
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    commands = list(words_of(path))
    assert len(commands) == 1
    for words in commands:
        if "torchrun" in words:
            parsed = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
            assert (parsed.training_script, parsed.module) == ("irepdeploy", True)
            if path.suffix == ".sbatch":
                assert (parsed.max_restarts, parsed.rdzv_backend) == (3, "c10d")
        check_options(words[words.index("irepdeploy") + 2 :])


def test_an_option_that_does_not_exist_is_found() -> None:
    with pytest.raises(Exception, match="--restarts"):
        check_options(["digits", "--restarts", "3"])
