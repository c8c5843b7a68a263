"""Tables of records other than model latencies and those of single tools: comparisons, ratios and scoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from irepdeploy.board.protocol import percentile, ratio
from irepdeploy.errors import InputError
from irepdeploy.parsing.json_lines import read_lines
from irepdeploy.runs.comparison import SearchComparison, TrainingComparison

from ..report.columns import interval_text
from ..report.text import markdown_grid

__all__ = ["RECORD_TABLES"]

_TIMES = "\N{MULTIPLICATION SIGN}"
_ABOUT = ("benchmark", "created", "note")

Line = Mapping[str, Any]


def _lines(path: Path) -> list[Line]:
    found = read_lines(path, lambda value, where: value, "file of records", of="record").values.values()
    lines: list[Line] = [line for line in found if isinstance(line, dict)]
    if not lines:
        raise InputError("no record", where=path)
    return lines


def _comparison(lines: Sequence[Line]) -> str:
    """Return a comparison of strategies or presets over seeds, without its seconds."""
    line = lines[-1]
    model = SearchComparison if "strategies" in line else TrainingComparison
    found = model.model_validate({key: value for key, value in line.items() if key not in _ABOUT})
    heads, rows = list(found.columns[:-1]), [row[:-1] for row in found.rows]
    said = f"`{line['benchmark']}`; mean and standard deviation over {len(found.seeds)} seeds."
    return f"{said}\n\n{markdown_grid(heads, rows, [True] + [False] * (len(heads) - 1))}"


def _ratios(lines: Sequence[Line]) -> str:
    """Return medians, and ratios to the first row of each group, from samples by name."""
    parts = []
    for line in lines:
        samples = line["samples_ns"]
        nested = all(isinstance(value, dict) for value in samples.values())
        groups = samples if nested else {"": samples}
        rows = []
        for group, times in groups.items():
            first = next(iter(times))
            for name, own in times.items():
                alone = group == "projected"
                found = None if alone or name == first else ratio(own, times[first], seed=0)
                shown = "-" if alone else interval_text(found)
                rows.append([f"{name}{f', {group}' if group else ''}", f"{percentile(own, 50) / 1e9:.3g}", shown])
        what = ", ".join(str(line[key]) for key in ("suite", "benchmark", "network") if key in line)
        said = f"{line['system']['cpu']['model']}; {what}. Medians; {_TIMES}: of the first row of its kind."
        parts.append(f"{said}\n\n{markdown_grid(['what', 's', _TIMES], rows, [True, False, False])}")
    return "\n\n".join(parts)


def _scoring(lines: Sequence[Line]) -> str:
    """Return the time to score a candidate, including its share of the fuse, from a record of the suite table1."""
    from irepdeploy.search.suites.scoring import per_candidate, speed_up

    rows = []
    for line in lines:
        sizes = line["population"], line["candidates_per_round"], line["naive_candidates_per_round"]
        each = {name: per_candidate(name, own, line["fuse_ns"], *sizes) for name, own in line["samples_ns"].items()}
        for name, own in each.items():
            seconds, speed = speed_up(each["naive"], own, line["seed"])
            cells = ["1"] if name == "naive" else [interval_text(speed)]
            rows.append([line["network"], name, f"{seconds / line['images'] * 1000:.3f}", *cells])
    line = lines[0]
    said = f"{line['system']['cpu']['model']}, {line['device']}; population of {line['population']}."
    heads = ["network", "evaluation", "s a candidate and 1,000 images", "faster than naive"]
    return f"{said}\n\n{markdown_grid(heads, rows, [True, True, False, False])}"


def _of(table: Callable[[Sequence[Line]], str]) -> Callable[[Path], str]:
    return lambda path: table(_lines(path))


RECORD_TABLES: Mapping[str, Callable[[Path], str]] = {
    "comparison": _of(_comparison),
    "ratios": _of(_ratios),
    "scoring": _of(_scoring),
}
