"""Commands that are killed or run out of disk space lose nothing: resumed or repeated, they give the same result."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from irepdeploy.runs.record import append, read
from support.campaign import campaign, cases
from support.mishap import Mishap, Undisturbed, run_command, run_undisturbed
from support.records import make_record
from support.run_files import contents, damage, left_over, visible

_TINY = [
    "scale=smoke",
    "branches=acnet",
    "net.args.stages=[[4,4],[6]]",
    "data.options.train=24",
    "data.options.val=20",
    "search.batch_size=12",
    "search.population=3",
    "search.evolutions=2",
    "train.batch_size=12",
    "train.epochs=2",
]

# What the table of docs/robustness.md calls them.
_KINDS = {
    "kill": "before a write, a rename or a removal",
    "tear": "in the middle of a write",
    "step": "after a step of the optimizer",
    "time": "at any time",
    "outgrow": "in the middle of a file",
    "full": "from a write, a rename or a flush on",
    "limit": "no file can grow over a size",
}


@dataclass
class Command:
    """A command that is disturbed.

    Attributes:
        argv: Arguments except --out; `again` are those that continue or repeat it.
        earlier: Folder with earlier files; None for an empty one.
        atomic: Whether each file is always either the earlier one or that of the finished command.
        inside: Name in its folder that is passed as --out.
    """

    argv: list[str]
    again: list[str]
    earlier: Path | None = None
    atomic: bool = True
    inside: str = ""
    whole: Undisturbed = field(init=False)
    result: Path = field(init=False)

    def start(self, folder: Path) -> Path:
        """Return a folder with the earlier files."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.earlier is not None:
            return Path(shutil.copytree(self.earlier, folder))
        folder.mkdir(parents=True)
        return folder

    def line(self, folder: Path, *, again: bool = False) -> list[str]:
        """Return the arguments of the program."""
        return [*(self.again if again else self.argv), "--out", str(folder / self.inside)]


Commands = Callable[[str], Command]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Commands by name, each run once undisturbed; one uses the results of others."""
    root = tmp_path_factory.mktemp("commands").resolve()
    made: dict[str, Command] = {}

    def get(name: str) -> Command:
        if name not in made:
            made[name] = found = _command(name, get, root)
            # Pictures name their run's folder, so all of them have one name.
            found.result = found.start(root / name / "run")
            found.whole = run_undisturbed(found.line(found.result), found.result)
            if name == "bench":
                found.earlier = found.result
        return made[name]

    return get


def _command(name: str, get: Commands, root: Path) -> Command:
    if name in ("search", "train"):
        line = [name, "digits", *_TINY]
        return Command(line, [*line, "--resume"], atomic=False)
    if name == "compare":
        line = ["search", "compare", "digits", *_TINY, "--strategies", "des", "--seeds", "1", "--retrain"]
        return Command(line, [*line, "--resume"], atomic=False)
    if name == "bench":
        exported, trained = get("export").result / "model.onnx", get("train").result / "best.pt"
        line = ["bench", f"fused={exported}", f"branches={trained}", "--seconds", "0"]
        return Command(line, line, atomic=False)
    earlier = root / f"{name} before"
    earlier.mkdir()
    if name == "export":
        line = ["export", str(get("train").result / "best.pt"), "--no-simplify"]
        run_undisturbed([*line, "--precision", "fp16", "--seed", "1", "--out", str(earlier)], earlier)
        return Command(line, line, earlier)
    if name == "report":
        (root / "records").mkdir()
        for model in ("plain", "fused"):
            append(root / "records/records.jsonl", make_record(model=model))
        line = ["report", str(root / "records")]
        run_undisturbed([*line, "--title", "Before", "--out", str(earlier)], earlier)
        return Command(line, line, earlier)
    assert name == "plot"
    (earlier / "search.png").write_bytes(b"before")
    line = ["plot", "search", str(get("search").result)]
    return Command(line, line, earlier, inside="search.png")


@pytest.mark.parametrize(
    ("name", "day", "nightly"),
    [
        # By day, tests/search/execution/test_interrupted_runs.py ends searches and trainings more cheaply.
        pytest.param("search", 0, 100, marks=pytest.mark.slow),
        pytest.param("train", 0, 100, marks=pytest.mark.slow),
        pytest.param("export", 0, 100, marks=pytest.mark.slow),
        pytest.param("bench", 0, 100, marks=pytest.mark.slow),
        ("report", 2, 100),
        pytest.param("compare", 0, 12, marks=pytest.mark.slow),
        pytest.param("plot", 0, 12, marks=pytest.mark.slow),
    ],
)
def test_a_killed_command_loses_nothing(name: str, day: int, nightly: int, commands: Commands, tmp_path: Path) -> None:
    command = commands(name)
    chance = random.Random(name)
    fresh = command.whole.mishaps("kill", "tear", "step")
    chance.shuffle(fresh)
    with campaign(f"kills of {name}") as counts:
        left = cases(day, nightly)
        while left > 0:
            # Killed up to four times before it may finish, the first time at an event not tried before.
            mishaps = [fresh.pop()] if fresh else []
            mishaps += [_any_kill(command.whole, chance) for _ in range(4)]
            kills, wrong = _killed(command, command.start(tmp_path / "run"), mishaps[: min(4, left)])
            left -= max(1, len(kills))
            if wrong is not None:
                kills = kills or mishaps[:1]
                counts.fail(_KINDS[kills[-1].how], f"{', '.join(map(command.whole.named, kills))}: {wrong}")
                continue
            for kill in kills:
                counts.hold(_KINDS[kill.how])


def _any_kill(whole: Undisturbed, chance: random.Random) -> Mishap:
    kinds = [
        Mishap("kill", chance.randrange(len(whole.events))),
        Mishap("time", chance.uniform(0, whole.seconds)),
        Mishap("outgrow", chance.randrange(whole.largest)),
    ]
    return chance.choices(kinds, weights=(2, 2, 1))[0]


def _killed(command: Command, folder: Path, mishaps: Sequence[Mishap]) -> tuple[list[Mishap], str | None]:
    """Kill a command, continue it, kill it again, then let it finish; return the kills and any fault."""
    kills: list[Mishap] = []
    for mishap in mishaps:
        done = run_command(command.line(folder, again=bool(kills)), folder, mishap)
        if done.returncode == 0:
            # It finished before that moment.
            return kills, _different(command, folder)
        kills.append(mishap)
        if done.returncode > 0:
            return kills, f"exit code {done.returncode}: {done.stderr}"
        wrong = damage(folder) or _mixed(command, folder)
        if wrong is not None:
            return kills, wrong
    return kills, _continued(command, folder)


@pytest.mark.parametrize(
    ("name", "day", "nightly"),
    [
        pytest.param("search", 0, 30, marks=pytest.mark.slow),
        ("train", 1, 30),
        pytest.param("export", 0, 40, marks=pytest.mark.slow),
        pytest.param("bench", 0, 16, marks=pytest.mark.slow),
        ("report", 1, 30),
        pytest.param("compare", 0, 4, marks=pytest.mark.slow),
        pytest.param("plot", 0, 4, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_loses_nothing(name: str, day: int, nightly: int, commands: Commands, tmp_path: Path) -> None:
    command = commands(name)
    chance = random.Random(name)
    with campaign(f"full disk in {name}") as counts:
        mishaps = command.whole.mishaps("full")
        mishaps += [Mishap("limit", chance.randrange(2000, max(2001, command.whole.largest))) for _ in range(20)]
        chance.shuffle(mishaps)
        for mishap in mishaps[: cases(day, nightly)]:
            wrong = _filled(command, command.start(tmp_path / "run"), mishap)
            if wrong is None:
                counts.hold(_KINDS[mishap.how])
            else:
                counts.fail(_KINDS[mishap.how], f"{command.whole.named(mishap)}: {wrong}")


def _filled(command: Command, folder: Path, mishap: Mishap) -> str | None:
    """Run a command on a full disk, free the disk and let the command continue; return any fault."""
    before = contents(folder)
    done = run_command(command.line(folder), folder, mishap)
    if done.returncode == 0:
        # The last events may not need space; a run that is done and saved only says which pictures could not be drawn.
        return _different(command, folder, pictures="not every picture could be drawn" not in done.stderr)
    said = done.stderr.splitlines()
    if done.returncode != 4 or len(said) == 0 or "free some space" not in said[-1] or "Traceback" in done.stderr:
        return f"exit code {done.returncode}: {done.stderr}"
    if f"error: {folder}" not in said[-1]:
        return f"no path: {said[-1]}"
    if left_over(folder):
        return f"left over: {left_over(folder)}"
    wrong = damage(folder) or _mixed(command, folder)
    if wrong is not None:
        return wrong
    if any(path.read_bytes()[-1:] not in (b"", b"\n") for path in folder.rglob("*.jsonl")):
        return "half a line"
    lost = before.keys() - contents(folder).keys()
    # If even a rename fails after everything is written, an export leaves complete files without a certificate.
    if command.atomic and lost and "certificate.json" not in lost:
        return f"lost: {', '.join(sorted(lost))}"
    return _continued(command, folder)


def _continued(command: Command, folder: Path) -> str | None:
    """Continue a command; return how its result differs from that of an undisturbed one."""
    done = run_command(command.line(folder, again=True), folder)
    if done.returncode != 0:
        return f"cannot continue: {done.stderr}"
    return _different(command, folder)


def _different(command: Command, folder: Path, *, pictures: bool = True) -> str | None:
    if left_over(folder):
        return f"left over: {left_over(folder)}"
    wrong = damage(folder)
    if wrong is not None:
        return wrong
    if "records.jsonl" in visible(folder):
        return _records_lost(command, folder)
    found, wanted = contents(folder), contents(command.result)
    names = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    if not pictures:
        names = [name for name in names if name in found or not name.endswith(".png")]
    return f"other files than those of an undisturbed run: {', '.join(names)}" if names else None


def _records_lost(command: Command, folder: Path) -> str | None:
    """Return the missing records: earlier ones must come first, and those of the last run must be together."""
    assert command.earlier is not None
    earlier = (command.earlier / "records.jsonl").read_bytes()
    if not (folder / "records.jsonl").read_bytes().startswith(earlier):
        return "the earlier records have changed"
    wanted, found = (read(each / "records.jsonl") for each in (command.result, folder))
    last = [each for each in found if each.created == found[-1].created]
    if [each.model for each in last] != [each.model for each in wanted if each.created == wanted[-1].created]:
        return "records of the last run are missing"
    return None


def _mixed(command: Command, folder: Path) -> str | None:
    """Return a file that is neither the earlier one nor that of the finished command, if any."""
    if command.earlier is None or not command.atomic:
        return None
    before, after = contents(command.earlier), contents(command.result)
    wrong = [name for name, found in contents(folder).items() if found not in (before.get(name), after.get(name))]
    return f"neither the earlier nor the new file: {', '.join(wrong)}" if wrong else None
