"""Records of a reproduction are kept once, and the page says what they say and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from irepdeploy.bench.tools.pays import keep, main, pays_summary, pays_tables
from irepdeploy.bench.tools.readme_tables import refreshed
from irepdeploy.errors import InputError
from irepdeploy.runs.reproduction import MEASUREMENTS, RECORDS, ReproducedCell, TimedPopulation, append_cell, read_cells
from irepdeploy.runs.result import TrainingResult
from irepdeploy.search.reproduction.cells import Cell, cells_of
from irepdeploy.search.reproduction.protocol import PROTOCOLS, Protocol

FASHION = PROTOCOLS["fashion-mnist"]


def cells(protocol: Protocol, question: str) -> list[Cell]:
    return cells_of(protocol, [question], protocol.networks[:1])


def record(cell: Cell, test: float) -> ReproducedCell | TimedPopulation:
    facts = {
        "protocol": cell.protocol.name, "version": cell.protocol.version, "cell": cell.key, "stage": cell.stage,
        "network": cell.network.name, "condition": cell.condition.label, "arm": cell.arm.name, "place": cell.place,
        "seed": cell.seed, "recipe": {}, "created": "now", "system": {},
    }  # fmt: skip
    if cell.stage == "timing":
        samples = {"naive": (4_000_000_000,), "fused": (1_000_000_000,)}
        sizes = {"population": 24, "images": 5000, "batch": 200, "naive_batch": 256, "chunk": 1, "naive_chunk": 1}
        return TimedPopulation(**facts, **sizes, samples_ns=samples, fuse_ns=(0,))
    result = TrainingResult(
        branches=0, val_accuracy=0.5, test_accuracy=None if cell.stage == "trial" else test, best_epoch=1, epochs=1,
        seconds_per_epoch=1.0, seconds=2.0, device="cpu", devices=1,
    )  # fmt: skip
    return ReproducedCell(**facts, settings=vars(FASHION.grid[2]), result=result)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two jobs: all trials and two seeds of plain and of acnet, which both have; a time; and a merged training."""
    found = [cell for cell in cells(FASHION, "2") if cell.stage == "trial" or (cell.arm.name, cell.seed) in DONE]
    for job, share in (("job-1-of-2", found), ("job-2-of-2", found[-1:])):
        for cell in share:
            (tmp_path / job).mkdir(exist_ok=True)
            append_cell(tmp_path / job / RECORDS, record(cell, 0.9 + cell.seed / 100))
    append_cell(tmp_path / "job-2-of-2" / MEASUREMENTS, record(cells(FASHION, "1")[0], 0))
    append_cell(tmp_path / "job-2-of-2" / RECORDS, record(cells(FASHION.merged, "2")[-1], 0.8))
    append_cell(tmp_path / "job-2-of-2" / RECORDS, record(cells(FASHION.smoke, "2")[-1], 0.1))
    return tmp_path


DONE = [("plain", 0), ("plain", 1), ("acnet", 0), ("acnet", 1)]


def test_records_are_kept_once_and_apart(out: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    exact, merged = (records / f"pays-fashion-mnist{name}-compact6.jsonl" for name in ("", "-merged-step"))
    assert keep(out, records) == {exact: 42 + 4 + 1, merged: 1}
    assert keep(out, records) == {}
    assert len(read_cells([exact])) == 46
    pattern = records / "pays-fashion-mnist-*.jsonl"
    text = pays_tables("2", pattern)
    assert "**Table 2: do branches pay? compact6, 5,120 images, 1,600 steps**" in text
    assert "| acnet | 2 of 5 | 0.1, 0.0005, cosine |" in text
    version = FASHION.version
    assert f"Cells that were run of protocol fashion-mnist, version {version}:" in text
    finals = "`plain` (3 of 5), `repvgg`, `acnet` (3 of 5), `dbb`, `repnas 4/block`, `all`, `drawn 2/3`, `des 2/3`"
    assert f"- `compact6`: 46 of 82; missing: final runs of {finals}\n" in text
    assert "- `small_vgg6`, `small_resnet18`: none" in text and "Bonferroni" not in text
    assert f"protocol fashion-mnist, merged step, version {version}:\n\n- `compact6`: 1 of 82" in text
    time = pays_tables("1", pattern)
    assert (
        "| fused | 1.000 | 24.0 | 4.00 | - |" in time
        and "- `compact6`: 1 of 1\n- `small_vgg6`, `small_resnet18`: none" in time
    )
    # Cells that two questions share: the trials of plain, all and drawn 2/3, and the final runs of plain.
    assert "- `compact6`: 20 of 77" in pays_tables("5", pattern)


def test_the_summary_keeps_accuracy_and_cost(out: Path, tmp_path: Path) -> None:
    keep(out, tmp_path)
    text = pays_summary("2", tmp_path / "pays-fashion-mnist-*.jsonl")
    assert "| arm | test % | difference from plain | verdict | training s | search s |" in text
    assert "| acnet | 90.50 +- 0.71 | +0.00 [+0.00, +0.00] |" in text
    assert "Bonferroni" not in text and "Cells" not in text


def test_a_page_without_records_says_so(tmp_path: Path) -> None:
    mark = "<!-- table: pays 2 from records/pays-fashion-mnist-*.jsonl -->\n"
    text, stale = refreshed(f"{mark}<!-- end -->", tmp_path)
    assert text == f"{mark}\nNo records yet.\n\n<!-- end -->" and len(stale) == 1


@pytest.mark.parametrize(
    ("question", "name", "words"),
    [("3", "pays-fashion-mnist-*.jsonl", "unknown question '3'"), ("2", "pays-mnist-*.jsonl", "expected pays-DATA-")],
)
def test_a_table_that_cannot_be_made_is_an_error(question: str, name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        pays_tables(question, tmp_path / name)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
