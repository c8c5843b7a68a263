"""Tables of a protocol, from its records."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from irepdeploy.runs.comparison import ComparedTraining, TrainingComparison
from irepdeploy.runs.reproduction import (
    MARGIN,
    Measured,
    ReproducedCell,
    RescoredPopulation,
    TimedPopulation,
    paired,
)
from irepdeploy.runs.spread import Spread

from .measured_tables import noise_table, timing_table
from .protocol import QUESTIONS, RANKED, Condition, Network, Protocol
from .table import Table

__all__ = ["NOTES", "comparison_of", "equal_time", "flattening", "ranking", "tables_of"]

Done = Mapping[str, ReproducedCell]

TITLES = {
    "2": "Table 2: do branches pay?",
    "5": "Table 5: how many branches?",
    "search": "Does the search pay?",
    "axes": "Where do branches pay?",
    "helps": "What helps?",
    "step": "Do merged steps change the answer?",
}
# Common to all tables of trainings.
NOTES = (
    "Test accuracy of the fused network of the best epoch by the search-validation set: mean and standard deviation"
    " over seeds. Seconds: median over seeds. Difference: in points, paired by seed, with Student's 95 % interval.",
    "Verdict: better or worse if the interval excludes 0, also at Bonferroni's level for all differences of the table;"
    f' "alone" if only at its own. Within {MARGIN:g}: the interval lies between -{MARGIN:g} and {MARGIN:g}.',
)
_DRAWS = 2000
# Arms of other questions that the arms of a question are compared with.
_ALSO_FROM = {"search": ("all",)}


def tables_of(
    protocol: Protocol,
    done: Done,
    questions: Sequence[str],
    networks: Sequence[Network],
    measured: Mapping[str, Measured] | None = None,
) -> list[Table]:
    """Return the tables that the records allow: one for each question, network and condition."""
    found = []
    for network in networks:
        for question in questions:
            for condition in protocol.conditions(question):
                finals = _finals(protocol, done, network, condition, QUESTIONS[question])
                if any(finals.values()):
                    finals |= _finals(protocol, done, network, condition, _ALSO_FROM.get(question, ()))
                    found.append(_table(protocol, question, network, condition, finals))
            if question == "axes":
                found += flattening(protocol, done, network)
            if question == "time":
                found += equal_time(protocol, done, network)
            if question == "search":
                found += ranking(protocol, done, network)
            for each in (measured or {}).values():
                if (each.protocol, each.version, each.network) != (protocol.name, protocol.version, network.name):
                    continue
                if question == "search" and isinstance(each, RescoredPopulation):
                    found.append(noise_table(each, _retrained(protocol, done, network)))
                if question == "1" and isinstance(each, TimedPopulation):
                    found.append(timing_table(each))
    return found


def _finals(
    protocol: Protocol, done: Done, network: Network, condition: Condition, arms: Sequence[str]
) -> dict[str, dict[int, ReproducedCell]]:
    """Return the final records of each arm, by seed."""
    found: dict[str, dict[int, ReproducedCell]] = {arm: {} for arm in arms}
    for cell in _of(protocol, done, network, condition, "final"):
        if cell.arm in found and cell.seed in protocol.seeds:
            found[cell.arm][cell.seed] = cell
    return {arm: dict(sorted(cells.items())) for arm, cells in found.items()}


def _scores(protocol: Protocol, done: Done, network: Network, condition: Condition, arm: str) -> dict[int, float]:
    """Return the test accuracy of each final record of an arm, by seed."""
    return {seed: _test(cell) for seed, cell in _finals(protocol, done, network, condition, (arm,))[arm].items()}


def _of(protocol: Protocol, done: Done, network: Network, condition: Condition, stage: str) -> list[ReproducedCell]:
    wanted = (protocol.name, protocol.version, network.name, condition.label, stage)
    return [
        cell
        for cell in done.values()
        if (cell.protocol, cell.version, cell.network, cell.condition, cell.stage) == wanted
    ]


def _table(
    protocol: Protocol,
    question: str,
    network: Network,
    condition: Condition,
    finals: Mapping[str, Mapping[int, ReproducedCell]],
) -> Table:
    paper = dict(network.paper)
    scores = {arm: {seed: _test(cell) for seed, cell in cells.items()} for arm, cells in finals.items()}
    bases = _bases(question)
    against = {(arm, label): base for arm in QUESTIONS[question] for label, base in bases(arm).items()}
    labels = list(dict.fromkeys(label for _, label in against))
    rows = []
    for arm, cells in finals.items():
        if not cells or arm not in QUESTIONS[question]:
            continue
        row = [
            arm,
            f"{len(cells)} of {len(protocol.seeds)}",
            _settings(protocol, cells),
            _branches(cells),
            _spread(scores[arm]),
        ]
        for label in labels:
            base = against.get((arm, label))
            difference = None if base is None else paired(scores[arm], scores[base], len(against))
            row += ["-", "-"] if difference is None else [difference.text, difference.verdict]
        row += [
            _median(cells, _training_seconds),
            _median(cells, lambda cell: None if cell.search is None else cell.search.seconds),
            _structure(cells, finals),
        ]
        rows.append(tuple([*row, f"{paper[arm]:.2f}" if arm in paper else "-"] if paper else row))
    differences = (column for label in labels for column in (f"difference from {label}", "verdict"))
    columns = (
        "arm", "seeds", "lr, decay, schedule", "branches", "test %", *differences,
        "training s", "search s", "structure", *(("paper %",) if paper else ()),
    )  # fmt: skip
    chance = f"The table compares {len(against)} pairs of arms: at 95 % each, one in 20 excludes 0 by chance."
    notes = (*NOTES, chance) if len(against) > 1 else NOTES
    return Table(f"{TITLES[question]} {network.name}, {condition.label}", columns, tuple(rows), notes)


def _bases(question: str) -> Callable[[str], dict[str, str]]:
    """Return a function from an arm to the arms it is compared with, by column label."""
    arms = QUESTIONS[question]

    def first(arm: str) -> dict[str, str]:
        return {} if arm == arms[0] else {arms[0]: arms[0]}

    def searched(arm: str) -> dict[str, str]:
        # Fewer branches than all must not only be better than none.
        return first(arm) | ({"all": "all"} if arm.startswith("des ") else {})

    def helped(arm: str) -> dict[str, str]:
        what, _, change = arm.partition(", ")
        found = first(arm)
        if what == "all" and change:
            found["all"] = "all"
            twin = f"plain, {change}"
            if twin in arms:
                # A gain that a plain network shares is not due to the branches.
                found["plain with the same change"] = twin
        return found

    def chosen(arm: str) -> dict[str, str]:
        # DES differs from this evolution only in that it follows what the supernet has learned.
        undirected = {"evolution 2/3": "evolution 2/3"} if arm == "des 2/3" else {}
        return {**first(arm), **undirected, **dict.fromkeys(_ALSO_FROM["search"], _ALSO_FROM["search"][0])}

    return {"helps": helped, "5": searched, "search": chosen}.get(question, first)


def _test(cell: ReproducedCell) -> float:
    assert cell.result.test_accuracy is not None
    return cell.result.test_accuracy


def _training_seconds(cell: ReproducedCell) -> float:
    return cell.result.seconds


def _spread(scores: Mapping[int, float]) -> str:
    return Spread.of([100 * score for score in scores.values()]).text


def _settings(protocol: Protocol, cells: Mapping[int, ReproducedCell]) -> str:
    found = next(iter(cells.values())).settings
    rates = {each.lr for each in protocol.grid}
    edge = ", end of the grid" if found["lr"] in (min(rates), max(rates)) else ""
    return f"{found['lr']:g}, {found['weight_decay']:g}, {found['schedule']}{edge}"


def _branches(cells: Mapping[int, ReproducedCell]) -> str:
    counts = sorted({cell.result.branches for cell in cells.values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _median(cells: Mapping[int, ReproducedCell], figure: Any) -> str:
    values = [value for cell in cells.values() if (value := figure(cell)) is not None]
    return f"{statistics.median(values):.0f}" if values else "-"


def _structure(cells: Mapping[int, ReproducedCell], finals: Mapping[str, Mapping[int, ReproducedCell]]) -> str:
    """Describe whether all exported networks of an arm have the structure common to all arms."""
    mine = {cell.structure for cell in cells.values()}
    known = {cell.structure for each in finals.values() for cell in each.values()} - {None}
    if not mine or None in mine:
        return "not shown"
    return "same" if len(known) == 1 else "differs"


def flattening(protocol: Protocol, done: Done, network: Network) -> list[Table]:
    """Return what the plain network gains from more steps on the same images; or no tables."""
    main, plain = protocol.main, QUESTIONS["axes"][0]
    others = {*protocol.axes, *(pair.plain for pair in protocol.equal_time)}
    longer = [each for each in others if each.images == main.images and (each.epochs or 0) > (main.epochs or 0)]
    lengths = [main, *sorted(longer, key=lambda each: each.epochs or 0)]
    scores = {each: _scores(protocol, done, network, each, plain) for each in lengths}
    rows = []
    for before, after in itertools.pairwise([each for each in lengths if scores[each]]):
        gain = paired(scores[after], scores[before])
        if gain is not None:
            more = statistics.fmean(gain.values) > MARGIN
            verdict = "no: go by the verdicts of the longer training" if more else "yes"
            seeds = f"{len(gain.values)} of {len(protocol.seeds)}"
            rows.append((before.label, after.label, seeds, gain.text, verdict))
    if not rows:
        return []
    note = f"Flattened: longer training gains at most {MARGIN:g} points in the mean."
    title = f"Was the training long enough? {network.name}, {plain}"
    return [Table(title, ("from", "to", "seeds", "gain in points", "flattened"), tuple(rows), (note,))]


def equal_time(protocol: Protocol, done: Done, network: Network) -> list[Table]:
    """Return a table of branches against a plain network that trains at least as long; empty without such a pair."""
    plain = QUESTIONS["time"][0]
    rows = []
    for pair in protocol.equal_time:
        sides = ((pair.condition, pair.arm), (pair.plain, plain))
        cells, rivals = (_finals(protocol, done, network, condition, (arm,))[arm] for condition, arm in sides)
        scores, base = ({seed: _test(cell) for seed, cell in each.items()} for each in (cells, rivals))
        difference = paired(scores, base, len(protocol.equal_time))
        if difference is not None:
            mine = (pair.condition.label, _spread(scores), _median(cells, _training_seconds))
            theirs = (pair.plain.label, _spread(base), _median(rivals, _training_seconds))
            seeds = f"{len(difference.values)} of {len(protocol.seeds)}"
            rows.append((pair.arm, seeds, *mine, *theirs, difference.text, difference.verdict))
    if not rows:
        return []
    columns = (
        "arm", "seeds", "condition", "test %", "training s", "plain's condition", "plain's test %",
        "plain's training s", "difference from plain", "verdict",
    )  # fmt: skip
    title = f"Branches, or a plain network that trains as long? {network.name}"
    note = "This question was added when the first records were there."
    return [Table(title, columns, tuple(rows), (*NOTES, note))]


def ranking(protocol: Protocol, done: Done, network: Network) -> list[Table]:
    """Return a table of how well the supernet ranks the retrained candidates; empty with fewer than three of them."""
    whole = _candidates(protocol, done, network)
    if len(whole) < 3:
        return []
    places = sorted(whole)
    scores = [float(next(iter(whole[place].values())).score or 0) for place in places]
    tests = np.array([[_test(whole[place][seed]) for seed in protocol.candidate_seeds] for place in places])
    rows = [("supernet's score, mean of retrainings", str(len(places)), _tau(np.array(scores), tests.mean(1)))]
    if tests.shape[1] > 1:
        rows.append(("one retraining, another", str(len(places)), _tau(tests[:, 0], tests[:, 1])))
    notes = (
        f"The last population of {RANKED}, seed {protocol.seeds[0]}, each retrained with"
        f" {len(protocol.candidate_seeds)} seeds. Interval: {_DRAWS:,} bootstrap draws of candidates.",
        "How two retrainings agree bounds how well any score can rank a single one.",
        *_spread_of(tests),
    )
    title = f"Does the supernet rank? {network.name}, {protocol.main.label}"
    return [Table(title, ("rankings", "candidates", "Kendall's tau, 95 % interval"), tuple(rows), notes)]


def _spread_of(tests: np.ndarray[Any, Any]) -> tuple[str, ...]:
    """Return a note on how much candidates differ beside how much the seeds alone would make them differ.

    Args:
        tests: Test accuracy (candidates, seeds).
    """
    seeds = tests.shape[1]
    if seeds < 2:
        return ()
    means, alone = tests.mean(1).std(ddof=1), math.sqrt(tests.var(1, ddof=1).mean() / seeds)
    return (
        f"Retrained, the means of candidates over their seeds have a standard deviation of {100 * means:.2f} points;"
        f" the noise of the seeds alone would give {100 * alone:.2f}.",
    )


def _candidates(protocol: Protocol, done: Done, network: Network) -> dict[int, dict[int, ReproducedCell]]:
    """Return the candidates that were retrained with every seed, by rank and seed."""
    by_place: dict[int, dict[int, ReproducedCell]] = {}
    for cell in _of(protocol, done, network, protocol.main, "candidate"):
        by_place.setdefault(cell.place, {})[cell.seed] = cell
    return {place: each for place, each in by_place.items() if set(each) >= set(protocol.candidate_seeds)}


def _retrained(protocol: Protocol, done: Done, network: Network) -> dict[int, float]:
    found = _candidates(protocol, done, network)
    return {place: statistics.fmean(_test(cell) for cell in cells.values()) for place, cells in found.items()}


def _tau(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> str:
    from scipy.stats import kendalltau

    random = np.random.default_rng(0)
    draws = []
    for _ in range(_DRAWS):
        picked = random.integers(len(one), size=len(one))
        tau = kendalltau(one[picked], other[picked]).statistic
        # Kendall's tau is undefined for a draw of equal values.
        if not np.isnan(tau):
            draws.append(tau)
    whole = kendalltau(one, other).statistic
    if np.isnan(whole) or not draws:
        return "-"
    low, high = np.percentile(draws, (2.5, 97.5))
    return f"{whole:+.2f} [{low:+.2f}, {high:+.2f}]"


def comparison_of(
    protocol: Protocol, done: Done, question: str, network: Network, condition: Condition
) -> TrainingComparison | None:
    """Return a comparison of the arms of a question that have all seeds, for plotting; None for fewer than two arms."""
    finals = _finals(protocol, done, network, condition, QUESTIONS[question])
    whole = {arm: cells for arm, cells in finals.items() if len(cells) == len(protocol.seeds)}
    if len(whole) < 2:
        return None
    runs = [
        ComparedTraining(preset=arm, seed=seed, **cell.result.model_dump())
        for arm, cells in whole.items()
        for seed, cell in cells.items()
    ]
    return TrainingComparison(
        network=network.name,
        dataset=f"{protocol.name}, {condition.label}",
        presets=tuple(whole),
        seeds=tuple(sorted(protocol.seeds)),
        runs=tuple(runs),
    )
