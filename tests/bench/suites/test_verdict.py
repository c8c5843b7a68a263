from __future__ import annotations

import pytest

from irepdeploy.bench.suites.condition import Condition
from irepdeploy.bench.suites.latency_row import LatencyRow, Measured
from irepdeploy.bench.suites.verdict import verdicts
from irepdeploy.board.protocol import Ratio, summary


def row(family: str, paper_ratio: float | None, ratio: float | None) -> LatencyRow:
    value = None if ratio is None else Ratio(ratio, None, None)
    measured = {"torch": Measured(summary([1_000_000]), value, True)}
    return LatencyRow("a row", family, "", None, None, "", None, paper_ratio, measured)


@pytest.mark.parametrize(
    ("ratios", "words"),
    [
        ((3.1, 4.4), "3.10 to 4.40 times as long as irep; in the paper 17.00 times. All are slower than it here too."),
        ((0.4, 0.43), "All are faster than it here: the paper's order does not hold on this device."),
        ((0.9, 1.5), "Some are faster, some slower"),
        ((1.01, 0.99), "Some are faster, some slower"),
    ],
)
def test_the_sentence_is_what_the_table_carries(ratios: tuple[float, float], words: str) -> None:
    rows = [row("plain", 1.2, 9.0), *(row("NAS", 17.0, ratio) for ratio in ratios)]
    (said,) = verdicts(rows, [Condition("torch")], "irep")
    assert said.startswith("torch: the NAS networks take ")
    assert words in said


def test_nothing_is_reported_where_nothing_was_measured_or_published() -> None:
    assert verdicts([row("plain", 1.2, 9.0)], [Condition("torch")], "irep") == []
    assert verdicts([row("NAS", None, 3.0)], [Condition("torch")], "irep") == []
    assert verdicts([row("NAS", 17.0, 3.0)], [Condition("ort-cpu")], "irep") == []


def test_like_is_held_against_like_too() -> None:
    rows = [row("NAS", 17.0, 1.03), row("NAS", None, 0.97), row("NAS", 11.0, 1.44), row("NAS", None, 1.37)]
    (said,) = verdicts(rows, [Condition("torch")], "irep")
    assert said.endswith(
        "All are slower than it here too. With their BN folded too, as that one's is: 0.97 to 1.37 times."
    )
    same = [row("NAS", 17.0, 0.4), row("NAS", None, 0.4)]
    assert "folded too" not in verdicts(same, [Condition("torch")], "irep")[0]
