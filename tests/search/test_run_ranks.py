"""A search and a training on two processes, compared with one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from irepdeploy.folders import output_folder
from irepdeploy.recipe import load_recipe
from irepdeploy.runs.result import TrainingResult
from irepdeploy.search.engine import Search
from irepdeploy.search.execution.shipped import recipe_path
from support.processes import free_port, run_ranks
from support.tiny import JournalOf

_OVERRIDES = ["search.evolutions=2", "search.subnets_per_step=3", "search.evaluation.racing.share=0.5"]

_SEARCH = """
import sys
from pathlib import Path
from irepdeploy.cli import main

sys.exit(main(["search", "digits", *OVERRIDES, "--out", "OUT", *MORE]))
"""

_TRAIN = """
import sys
from irepdeploy.cli import main

sys.exit(main(["train", "digits", *OVERRIDES, "--out", "OUT"]))
"""


def code(text: str, overrides: list[str], out: Path, more: list[str] | None = None) -> str:
    return text.replace("OVERRIDES", repr(overrides)).replace("OUT", str(out)).replace("MORE", repr(more or []))


def weights(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(out / "state.pt", weights_only=True)["model"]
    return state


@pytest.fixture(scope="module")
def overrides(tiny_overrides: list[str]) -> list[str]:
    return [*tiny_overrides, *_OVERRIDES]


@pytest.fixture(scope="module")
def alone(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    Search(load_recipe(recipe_path("digits"), overrides), out).run()
    return out


def test_two_processes_search_what_one_does_to_the_bit(
    overrides: list[str], alone: Path, tmp_path: Path, journal_of: JournalOf
) -> None:
    out = tmp_path / "two"
    ends = run_ranks(code(_SEARCH, overrides, out), 2)
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    assert "wrote" in ends[0].stdout
    assert ends[1].stdout == ""
    assert ends[1].stderr == ""
    expected = weights(alone)
    assert all(torch.equal(value, expected[name]) for name, value in weights(out).items())
    one, two = journal_of(alone), journal_of(out)
    assert (one[0].pop("devices"), two[0].pop("devices")) == (1, 2)
    assert one == two
    for path in (alone / "population").iterdir():
        assert path.read_bytes() == (out / "population" / path.name).read_bytes()
    assert json.loads((out / "result.json").read_text())["devices"] == 2


@pytest.mark.slow
def test_what_two_processes_began_one_can_end(overrides: list[str], alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    lose = code(_SEARCH, overrides, out).replace(
        "sys.exit(main(",
        """
from irepdeploy.search.execution.run_folder import RunFolder
import os, signal
original = RunFolder.save_state
def save_state(self, state):
    original(self, state)
    if state["epoch"] == 2 and self.silent:
        os.kill(os.getpid(), signal.SIGKILL)
RunFolder.save_state = save_state
sys.exit(main(""",
    )
    ends = run_ranks(lose, 2)
    assert [end.returncode for end in ends] == [4, -9], ends[0].stderr
    assert "rank 1 of 2 did not answer any more" in ends[0].stderr
    assert "--resume" in ends[0].stderr
    from irepdeploy.cli import main

    assert main(["search", "digits", *overrides, "--out", str(out), "--resume"]) == 0
    for path in (alone / "population").iterdir():
        assert path.read_bytes() == (out / "population" / path.name).read_bytes()


def test_two_processes_train_on_halves_of_each_batch(overrides: list[str], tmp_path: Path) -> None:
    ends = run_ranks(code(_TRAIN, [*overrides, "train.epochs=2", "train.ema=0.9"], tmp_path / "out"), 2)
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["devices"], result["epochs"]) == (2, 2)
    assert ends[1].stdout == ""


@pytest.mark.slow  # a minute of compiling
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
@pytest.mark.parametrize("step", ["exact", "merged"])
def test_two_processes_train_by_compiled_steps(step: str, overrides: list[str], tmp_path: Path) -> None:
    found = []
    for compiled in ("false", "true"):
        more = ["train.epochs=1", f"train.step={step}", f"train.compile={compiled}"]
        out = tmp_path / compiled
        ends = run_ranks(code(_TRAIN, [*overrides, *more], out), 2, timeout=600)
        assert [end.returncode for end in ends] == [0, 0], ends[0].stderr + ends[1].stderr
        found.append(weights(out))
    assert list(found[0]) == list(found[1])
    for name, value in found[0].items():
        assert bool(torch.isfinite(found[1][name]).all())
        # Compiled code draws other random numbers, and with them other positions of the sample.
        if step == "exact":
            torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4)


def test_of_several_ranks_the_one_that_writes_holds_the_folder(overrides: list[str], tmp_path: Path) -> None:
    with output_folder(tmp_path / "out"):
        ends = run_ranks(code(_SEARCH, overrides, tmp_path / "out"), 2)
        assert len(list((tmp_path / "out").iterdir())) == 1
    assert [end.returncode for end in ends] == [4, 4]
    assert "out: this folder is in use by `" in ends[0].stderr
    assert f"(process {os.getpid()} on " in ends[0].stderr
    assert "rank 0 of 2 failed: this folder is in use" in ends[1].stderr


# Rank 1 is lost after two epochs, and rank 0 after four; each once.
_LOSE_TWO = """
import os, signal, sys
from pathlib import Path
from irepdeploy.search.execution.run_folder import RunFolder

original = RunFolder.save_state

def save_state(self, state):
    original(self, state)
    lost = Path(f"LOST/{state['epoch']}")
    if {2: "1", 4: "0"}.get(state["epoch"]) == os.environ["RANK"] and not lost.exists():
        lost.touch()
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.save_state = save_state
"""


# It is lost before it has written anything.
_LOSE_FIRST = """
start = RunFolder.start

def lose(self, event):
    start(self, event)
    if not Path("LOST/first").exists():
        Path("LOST/first").touch()
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.start = lose
"""


@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", ["c10d", "c10d, each start with a store of its own", "static"])
def test_torchrun_on_two_machines_recovers_from_lost_ranks(
    rendezvous: str, overrides: list[str], tmp_path: Path, journal_of: JournalOf
) -> None:
    """Two agents on the loopback interface represent the machines."""
    overrides = [*overrides, "search.evolutions=5"]
    whole = tmp_path / "whole"
    Search(load_recipe(recipe_path("digits"), overrides), whole).run()
    (tmp_path / "lost").mkdir()
    script = tmp_path / "run.py"
    text = code(_SEARCH, overrides, tmp_path / "out")
    script.write_text(_LOSE_TWO.replace("LOST", str(tmp_path / "lost")) + text)
    port = free_port()
    line = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"]
    line += ["--monitor-interval=0.1", f"--rdzv-backend={rendezvous.partition(',')[0]}"]
    if rendezvous != "static":
        line += [f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1", "--rdzv-id=test"]
    else:
        line += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    apart = str(int("own" in rendezvous))
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": apart}
    agents = []
    for node in range(2):
        own = [f"--node-rank={node}"] if rendezvous == "static" else []
        with open(tmp_path / f"{node}.log", "wb") as log:
            command = [*line, *own, str(script)]
            agents.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [agent.wait(timeout=900) for agent in agents]
    finally:
        for agent in agents:
            agent.terminate()
            agent.wait()
    logs = "".join((tmp_path / f"{node}.log").read_text() for node in range(2))
    assert codes == [0, 0], logs
    assert sorted(path.name for path in (tmp_path / "lost").iterdir()) == ["2", "4"]
    assert logs.count("torchrun has restarted this run") == 2
    one, two = journal_of(whole), journal_of(tmp_path / "out")
    assert len(two[0].pop("launchers")) == 2 and (one[0].pop("devices"), two[0].pop("devices")) == (1, 2)
    assert one == two
    for path in (whole / "population").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / "population" / path.name).read_bytes()


@pytest.mark.slow
def test_a_run_that_torchrun_starts_again_keeps_its_number(overrides: list[str], tmp_path: Path) -> None:
    """It is killed before it has written anything, and after its second epoch."""
    (tmp_path / "runs" / "search").mkdir(parents=True)
    (tmp_path / "lost").mkdir()
    text = f"import os\nos.chdir({str(tmp_path)!r})\n" + _LOSE_TWO.replace('{2: "1", 4: "0"}', '{2: "0"}') + _LOSE_FIRST
    script = code(_SEARCH, overrides, tmp_path).replace(f', "--out", "{tmp_path}"', "")
    (tmp_path / "run.py").write_text(text.replace("LOST", str(tmp_path / "lost")) + script)
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "--max-restarts=2"]
    end = subprocess.run(
        [*line, "--monitor-interval=0.1", "--local-addr=127.0.0.1", str(tmp_path / "run.py")],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert end.returncode == 0, end.stderr
    assert sorted(path.name for path in (tmp_path / "lost").iterdir()) == ["2", "first"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["search", "search-2"]
    assert "wrote runs/search-2/best.json" in end.stdout and not list((tmp_path / "runs" / "search").iterdir())


# A caller's network, data and task: a search, then a training with what it found.
_OWN = """
import torch
import irepdeploy as ird
from support.foreign import Samples, TinyNet, maps

torch.manual_seed(1)
data = {"train": Samples(maps(16)), "val": maps(10, 1), "task": "segmentation", "batch_size": 8, "threads": 1}
few = {"population": 4, "evolutions": 2, "warmup_epochs": 1, "subnets_per_step": 2, "budget": "1/2"}
found = ird.search(TinyNet(), **data, **few, out="OUT/search")
done = ird.train(TinyNet(), **data, test=maps(12, 2), architecture=found.best, epochs=2, out="OUT/train")
plain = ird.fuse(done.model)(maps(4, 3)[0])
print(found.best.digest, [each.value for each in found.fitnesses], done.result.devices, done.scores["test"].samples,
      float(plain.sum()) if done.result.devices == 2 else "")
"""


@pytest.mark.slow
def test_two_processes_search_and_train_a_callers_network(tmp_path: Path, journal_of: JournalOf) -> None:
    runs = {size: run_ranks(code(_OWN, [], tmp_path / str(size)), size) for size in (1, 2)}
    for size, ends in runs.items():
        assert [end.returncode for end in ends] == [0] * size, ends[0].stderr + ends[-1].stderr
    (one,), (first, second) = runs[1], runs[2]
    assert first.stdout == second.stdout
    # The search is the same to the bit; a training sums the gradients of half batches.
    assert one.stdout.split(" 1 ")[0] == first.stdout.split(" 2 ")[0]
    journals = [journal_of(tmp_path / size / "search") for size in ("1", "2")]
    assert [journal[0].pop("devices", 1) for journal in journals] == [1, 2]
    assert journals[0] == journals[1]
    assert TrainingResult.read(tmp_path / "2" / "train" / "result.json").devices == 2
