"""Randomly damaged files of runs and recipes: nothing wrong is read, and intact parts are still read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.bench.report.gather import gather
from irepdeploy.bench.report.tables import tables_of
from irepdeploy.errors import InputError
from irepdeploy.parsing.json_lines import append_line
from irepdeploy.parsing.json_text import sealed, unsealed
from irepdeploy.plots.latency_points import latency_points
from irepdeploy.plots.search_history import SearchRun
from irepdeploy.recipe import Recipe, load_recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs import record
from irepdeploy.runs.comparison import SearchComparison, TrainingComparison
from irepdeploy.runs.journal import SearchJournal, read_events
from irepdeploy.runs.pareto import ParetoSet
from irepdeploy.runs.result import SearchFigures, TrainingResult
from support.campaign import campaign, cases
from support.faults import faults

ASSETS = Path(__file__).parent / "assets"
RECIPES = Path(__file__).parents[2] / "search" / "recipes"
WHOLE = {
    "pareto.json": (ParetoSet, ASSETS / "search" / "pareto.json"),
    "result.json of a search": (SearchFigures, ASSETS / "search" / "result.json"),
    "result.json of a training": (TrainingResult, ASSETS / "training" / "result.json"),
    "compare.json of a search": (SearchComparison, ASSETS / "search_compare" / "compare.json"),
    "compare.json of a training": (TrainingComparison, ASSETS / "training_compare" / "compare.json"),
}
ODD = (-3, 0, 1, 1.5, -0.0, 2**31, 2**63, 10**30, 1e300, "", "0", "now", "\x1b[31m", "\ud800", "x" * 5000, None, True)
ODD_TEXT = (*map(json.dumps, ODD), "NaN", "-Infinity", "1e999", "[]", "{}", "[[[[]]]]", '{"a": 1, "a": 2}', "9" * 5000)
ODD_YAML = (
    *ODD_TEXT,
    "no",
    "0x1f",
    "1_0",
    "12:30",
    ".inf",
    "*a",
    "&a 1",
    "!!set {a}",
    "<<",
    "- 1",
    "'",
    "\t1",
    "~",
    "%",
)


def reading(read: Callable[[], Any]) -> Any:
    """Return what is read, or one of our errors; any other exception propagates."""
    try:
        return read()
    except InputError as error:
        assert "\n" not in error.line
        return error


def disordered(content: bytes, generator: random.Random) -> bytes:
    """Swap two lines, double one, lose one, or put it elsewhere."""
    lines = content.splitlines(keepends=True)
    place, other = (generator.randrange(len(lines)) for _ in range(2))
    kind = generator.randrange(4)
    if kind == 0:
        lines[place], lines[other] = lines[other], lines[place]
    elif kind == 1:
        lines.insert(other, lines[place])
    else:
        line = lines.pop(place)
        if kind == 2:
            lines.insert(other, line)
    return b"".join(lines)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (object or list, key) below a JSON value."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [*((value, key) for key, _ in items), *(place for _, item in items for place in places(item))]


def with_odd_value(value: dict[str, Any], generator: random.Random) -> str:
    """Return JSON with swapped or renamed fields or another value, and with a valid check."""
    changed = json.loads(json.dumps(value))
    inner, key = generator.choice(places(changed))
    if generator.random() < 0.3:
        other, at = generator.choice(places(changed))
        inner[key], other[at] = json.loads(json.dumps(other[at])), json.loads(json.dumps(inner[key]))
        return json.dumps(sealed(changed))
    if generator.random() < 0.2 and isinstance(inner, dict):
        inner[generator.choice(["more", *inner])] = inner.pop(key)
        return json.dumps(sealed(changed))
    inner[key] = "HERE"
    text = json.dumps(changed if generator.random() < 0.5 else sealed(changed))
    return text.replace('"HERE"', generator.choice(ODD_TEXT))


class Files:
    """The files that are damaged, as this version writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("records", "journal"):
            for line in self.old(name).read_text().splitlines():
                append_line(folder / f"{name}.jsonl", json.loads(line))
        for name, (kind, path) in WHOLE.items():
            kind.read(path).write(folder / name)
        Architecture.load(ASSETS / "search" / "best.json").save(folder / "best.json")
        self.content = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.good = {name: read(folder / name) for name, read in READERS.items()}

    @staticmethod
    def old(name: str) -> Path:
        return ASSETS / {"records": "records/records.jsonl", "journal": "search/journal.jsonl"}[name]


READERS: dict[str, Callable[[Path], Any]] = {
    "records.jsonl": record.read,
    "journal.jsonl": read_events,
    "best.json": Architecture.load,
    **{name: kind.read for name, (kind, _) in WHOLE.items()},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("runs"))


def raw(files: Files, name: str, seed: int) -> str:
    """Damage a file, and check that everything read from it was in the original."""
    generator, content, good = random.Random(seed), files.content[name], files.good[name]
    disorder = name.endswith(".jsonl") and generator.random() < 0.3
    kind = "lines moved, doubled or lost" if disorder else "bytes damaged"
    damaged = disordered(content, generator) if disorder else faults(content, seed)[1]
    path = files.folder / "damaged"
    path.write_bytes(damaged)
    found = reading(lambda: READERS[name](path))
    if not isinstance(good, list):
        assert isinstance(found, InputError) or found == good, found
        return kind
    lines = content.splitlines()
    whole = [value for line, value in zip(lines, good, strict=True) if line in damaged.split(b"\n")]
    if isinstance(found, InputError):
        # Without its first line a journal is useless, even if its other lines are intact.
        assert not whole or (name == "journal.jsonl" and good[0] not in whole), found
        return kind
    assert all(each in found for each in whole), "a whole line is not read"
    assert all(each in good for each in found), "a line is read that was never written"
    if name == "journal.jsonl":
        run = reading(lambda: SearchJournal.read(path))
        kept = SearchJournal.read(files.folder / name)
        assert isinstance(run, InputError) or run.evolutions == kept.evolutions[: len(run.evolutions)]
    return kind


def odd(files: Files, name: str, seed: int) -> str:
    """Put odd values into a file, and check that it is refused or can be used."""
    generator, content = random.Random(seed), files.content[name]
    lines = content.splitlines() if name.endswith(".jsonl") else [content]
    place = generator.randrange(len(lines))
    lines[place] = with_odd_value(unsealed(json.loads(lines[place])), generator).encode()
    path = files.folder / ("records.jsonl" if name == "records.jsonl" else "damaged")
    path.write_bytes(b"\n".join(lines) + b"\n")
    found = reading(lambda: READERS[name](path))
    if isinstance(found, InputError):
        assert len(lines) == 1 or name == "journal.jsonl", found
    elif name == "records.jsonl":
        assert len(found) >= len(lines) - 1
        for each in found:
            assert each.batch > 0 and min([*each.input_shape, *each.samples_ns]) > 0
        reading(lambda: latency_points(found))
        assert tables_of(gather([path]).records)
    elif name == "journal.jsonl":
        run = reading(lambda: SearchRun.read(path))
        if not isinstance(run, InputError):
            assert run.strategy and run.finished in (True, False)
            for figures in (run.best_candidate, run.kept, run.alpha, run.beta, run.diversity):
                reading(figures)
    elif isinstance(found, SearchComparison | TrainingComparison):
        assert found.rows
    elif isinstance(found, Architecture):
        assert Architecture.from_dict(found.to_dict()) == found and found.count >= 0 and found.digest
    return "odd values, some with a valid check"


def recipe(files: Files, name: str, seed: int) -> str:
    """Damage a recipe, which carries no check: it is refused, or is a recipe that a journal can hold."""
    generator = random.Random(seed)
    content = (RECIPES / name).read_bytes()
    kind = generator.choice(["bytes damaged", "lines moved, doubled or lost", "odd value", "key repeated"])
    lines = content.decode().splitlines(keepends=True)
    scalars = [index for index, line in enumerate(lines) if ": " in line.partition("#")[0] and "{" not in line]
    place = generator.choice(scalars)
    if kind == "bytes damaged":
        damaged = faults(content, seed)[1]
    elif kind == "lines moved, doubled or lost":
        damaged = disordered(content, generator)
    elif kind == "odd value":
        lines[place] = f"{lines[place].partition(': ')[0]}: {generator.choice(ODD_YAML)}\n"
        damaged = "".join(lines).encode()
    else:
        lines.insert(place + 1, lines[place])
        damaged = "".join(lines).encode()
    path = files.folder / "damaged"
    path.write_bytes(damaged)
    found = reading(lambda: load_recipe(path))
    if kind == "key repeated":
        assert isinstance(found, InputError) and "occurs twice" in found.line, found
    if isinstance(found, Recipe):
        dumped = json.dumps(found.model_dump(mode="json"), allow_nan=False)
        assert Recipe.model_validate(json.loads(dumped)) == found
    return kind


def test_damaged_runs(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    kinds: list[tuple[str, Callable[[Files, str, int], str], str]] = []
    for name in files.content:
        title = {"records.jsonl": "records", "journal.jsonl": "journals", "best.json": "Architectures"}.get(name)
        kinds += [(title or "results and comparisons", damage, name) for damage in (raw, odd)]
    kinds += [("recipes", recipe, path.name) for path in sorted(RECIPES.glob("*.yaml"))]
    with campaign("damaged records, journals and recipes") as counts:
        for seed in range(cases(300, 10_000)):
            title, damage, name = kinds[seed % len(kinds)]
            try:
                counts.hold(f"{title}: {damage(files, name, seed)}")
            except Exception as error:  # the campaign lists all failures
                counts.fail(title, f"{damage.__name__}(files, {name!r}, {seed}): {type(error).__name__} {error}"[:400])
            capsys.readouterr()


@pytest.mark.parametrize("name", ["records", "journal"])
def test_damaged_files_of_an_earlier_version(files: Files, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They carry no check: a wrong number may be read, but every intact line is read, and nothing else is raised."""
    path = Files.old(name)
    content, good, damaged = path.read_bytes(), READERS[f"{name}.jsonl"](path), files.folder / "damaged"
    for seed in range(cases(40, 2_000)):
        damaged.write_bytes(faults(content, seed)[1])
        found = reading(lambda: READERS[f"{name}.jsonl"](damaged))
        if isinstance(found, list):
            kept = damaged.read_bytes().split(b"\n")
            whole = [value for line, value in zip(content.splitlines(), good, strict=True) if line in kept]
            assert all(each in found for each in whole), seed
        capsys.readouterr()
