"""Sections of the page: their statements follow the figures of runs, exports and detections."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.bench.report.content import Content, content_of
from irepdeploy.bench.report.gather import Gathered, gather
from irepdeploy.bench.report.page import page
from irepdeploy.bench.report.run import Run
from irepdeploy.bench.report.sections.architectures import architectures
from irepdeploy.bench.report.sections.costs import costs
from irepdeploy.bench.report.sections.overview import overview
from irepdeploy.bench.report.sections.proofs import proofs
from irepdeploy.bench.report.sections.section import Section
from irepdeploy.bench.report.sections.sensitivity import sensitivity
from irepdeploy.bench.report.tables import tables_of
from irepdeploy.bench.report.verdict import verdict_of
from irepdeploy.bench.report.with_scores import with_scores
from irepdeploy.files import sha256
from irepdeploy.runs.record import Record
from irepdeploy.runs.result import TrainingResult
from irepdeploy.verify.certificate import Artefact, Certificate, Hop
from support.html_page import HtmlPage

ASSETS = Path(__file__).parents[2] / "runs" / "assets"
HOSTILE = "</script><img src=x onerror=alert(1)>\u202e"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def hop(source: str, result: str, error: Any, allowed: float | None = 1e-4, ok: bool = True) -> Hop:
    tolerance = {"max_rel_error": allowed, "min_cosine": None}
    comparison = {"ok": ok, "max_rel_error": error, "tolerance": tolerance, "reason": "too large", "outputs": []}
    return Hop(source, result, [{"name": "random, normal", "count": 8}], comparison)


def export(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(folder.name.encode())
    hops = [hop("network", "fused state", 4e-7), hop("fused state", "model.onnx", 0.0)]
    values: dict[str, Any] = {"source": {"net": "vgg6"}, "target": {"name": "ort"}, "hops": hops}
    values["artefacts"] = [Artefact.of(folder / "model.onnx")]
    Certificate(**{**values, **changes}).save(folder / "certificate.json")
    return folder


def detections(folder: Path) -> Path:
    folder.mkdir()
    entries = [
        {"image_id": image, "category_id": 7, "bbox": [0, 0, 1.5, 2], "score": score, "file_name": name}
        for image, score, name in ((1, 0.9, "a.jpg"), (1, 0.2, "a.jpg"), (2, 0.31, "b.jpg"), (3, 0.1, "../../up.jpg"))
    ]
    (folder / "detections.json").write_text(json.dumps(entries))
    (folder / "a.png").write_bytes(PNG)
    (folder / "b.png").write_text(HOSTILE)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Content]:
    """A folder with one item of every kind, and its page."""
    folder = tmp_path_factory.mktemp("mixed")
    for name in ("search", "training", "search_compare", "training_compare"):
        shutil.copytree(ASSETS / name, folder / name)
    shutil.copytree(ASSETS / "training", folder / "again")
    shutil.copytree(ASSETS / "records", folder / "records")
    export(folder / "export")
    detections(folder / "found")
    return folder, content_of([folder], pictures=False)


def section(content: Content, key: str) -> Section:
    return next(each for each in (*content.sections, *content.later) if each.key == key)


def test_everything_has_its_section(mixed: tuple[Path, Content]) -> None:
    folder, content = mixed
    assert [each.key for each in content.sections] == ["runs", "comparisons", "costs", "curves", "architectures"]
    assert [each.key for each in content.later] == ["hops", "detections"]
    assert content.lede.startswith("1 search; 2 trainings; 2 comparisons; ")
    assert content.notes == [note for note in content.notes if "omitted" not in note]
    html = HtmlPage(page(content, folder / "page.html"))
    ids = {attrs["id"] for _, attrs in html.elements if "id" in attrs}
    links = [attrs["href"] for tag, attrs in html.elements if tag == "a" and str(attrs["href"]).startswith("#")]
    assert len(links) >= 9 and {str(link)[1:] for link in links} <= ids
    assert len(ids) == sum("id" in attrs for _, attrs in html.elements)
    # No inline styles or handlers, since the page's policy would block them.
    assert not any("style" in attrs or any(name.startswith("on") for name in attrs) for _, attrs in html.elements)


def test_the_verdict_begins_with_the_comparisons_and_draws_them_once(mixed: tuple[Path, Content]) -> None:
    verdict = mixed[1].verdict
    assert (
        verdict.text
        == "random ties with des (+1.17 points [-13.73, +16.07]) over 2 seeds, and 1 more comparison below."
    )
    said = " ".join(verdict.others)
    assert "search keeps 34 branches" in said and "1 export passed every check." in said
    assert "found: 2 detections of at least 0.3 in 3 images." in said
    assert verdict.chart is not None and 'class="tie"' in verdict.chart.svg
    assert verdict.chart not in section(mixed[1], "comparisons").charts


def test_what_failed_and_what_runs_comes_first(mixed: tuple[Path, Content], tmp_path: Path) -> None:
    found = gather([mixed[0]])
    running = [replace(run, result=None, held=True) for run in found.runs if run.label == "training"]
    text = verdict_of(replace(found, runs=running), []).text
    assert text.startswith("training is running, epoch ") and "best so far" in text
    export(tmp_path / "bad", hops=[hop("network", "fused state", 0.5, ok=False)], failure="outputs differ")
    found.certificates += gather([tmp_path]).certificates
    verdict = verdict_of(replace(found, runs=running), [])
    assert verdict.text == "1 export passed every check; 1 export failed (bad: failed: outputs differ)."
    assert verdict.chart is not None and verdict.chart.title == "bad: error of each hop"
    assert verdict_of(Gathered(), []).text == "There is nothing to compare here."


def trainings(mixed: tuple[Path, Content], *scores: tuple[str, int, float, float]) -> list[Run]:
    """Trainings of (label, branches, score, half of the interval)."""
    (run,) = (each for each in gather([mixed[0] / "training"]).runs)
    assert isinstance(run.result, TrainingResult)
    found = []
    for label, branches, score, half in scores:
        fields = {**run.result.to_dict(), "test_accuracy": score, "branches": branches, "seconds": 10.0 + branches}
        fields["sets"] = {"test": {"samples": 9, "figures": {}, "low": score - half, "high": score + half}}
        found.append(replace(run, label=label, result=TrainingResult(**fields)))
    return found


def test_scores_within_noise_are_ties(mixed: tuple[Path, Content]) -> None:
    runs = trainings(
        mixed, ("near", 9, 0.82, 0.03), ("plain", 0, 0.8, 0.03), ("far", 9, 0.9, 0.03), ("low", 9, 0.7, 0.03)
    )
    found = overview(runs, None)
    assert found is not None
    rows = {row[0]: row[-1] for row in found.tables[0].rows}
    # The run without branches is the reference, wherever it is in the list.
    assert rows["plain"] == "" and rows["near"].startswith("+2.00 points [-2.24, +6.24]: tie")
    assert rows["far"].endswith(": better") and rows["low"].endswith(": worse")
    text = verdict_of(Gathered(runs=runs), []).text
    assert text.startswith("near ties with plain (+2.00 points [-2.24, +6.24]); far is better than plain")
    assert text.endswith("one seed each.")
    (chart,) = found.charts
    assert [chart.svg.count(f'class="{look}"') for look in ("tie", "better", "worse", "plain")] == [1, 1, 1, 1]
    shown = costs(runs, [])
    assert shown is not None and shown.charts[0].svg.count('class="whisker"') == 4


def test_curves_name_their_runs_and_every_step(mixed: tuple[Path, Content]) -> None:
    charts = section(mixed[1], "curves").charts
    epochs = next(chart for chart in charts if chart.title == "accuracy by epoch")
    assert epochs.series == ("again", "training")
    runs = gather([mixed[0] / "training"]).runs
    assert len(re.findall('class="cross"', epochs.svg)) == len(runs[0].epochs)
    assert epochs.svg.count('data-series="0"') == epochs.svg.count('data-series="1"') == 1
    best = next(chart for chart in charts if chart.title == "accuracy by evolution")
    assert best.svg.count("dashed") == 1


def test_an_architecture_is_drawn_cell_by_cell(mixed: tuple[Path, Content]) -> None:
    runs = gather([mixed[0] / "search", mixed[0] / "training"]).runs
    found = architectures(runs)
    assert found is not None
    search = next(chart for chart in found.charts if chart.title.startswith("search: 34 of 51"))
    assert (search.svg.count('class="cell kept"'), search.svg.count('class="cell none"')) == (34, 54 - 51)
    assert search.svg.count('class="cell "') == 51 - 34
    assert "left out\n" in search.svg and "% of the last population" in search.svg
    assert architectures([]) is None


def test_every_hop_is_told(tmp_path: Path) -> None:
    hops = [hop("network", "fused state", 4e-7), hop(HOSTILE, "m", 0.5, ok=False), hop("a", "b", "nan", None, ok=False)]
    folder = export(tmp_path / "e", hops=hops)
    found = proofs(gather([folder]).certificates)
    assert found is not None
    (table,), (chart,) = found.tables, found.charts
    assert [row[:5] for row in table.rows][:1] == [("network", "fused state", "8 random", "4.0e-07", "-")]
    assert [row[-1] for row in table.rows] == ["same", "too large", "too large"]
    # An error that is not a number is not drawn.
    assert chart.svg.count('class="value"') == 2 and chart.svg.count('class="limit"') == 2
    assert "<img" not in chart.svg
    assert found.claims == ("1 export failed (e: failed: a hop exceeds its tolerance).",)


def test_layers_are_ranked_by_what_they_cost(tmp_path: Path) -> None:
    layers = [
        {
            "layer": name,
            "operator": "Conv",
            "kept_float": kept,
            "tensor_db": 40.0,
            "channel_db": channel,
            "alone_db": alone,
        }
        for name, kept, channel, alone in (
            ("a", False, 50.0, 30.0),
            (HOSTILE, True, 51.0, 9.0),
            ("c", False, None, None),
        )
    ]
    int8 = {"layers": layers, "drop": 0.4, "max_drop": 0.5, "cosine": 0.999, "kept_float": [HOSTILE]}
    fp16 = {"ranges": {"max_weight": 2.0, "max_activation": 70000.0}}
    folder = export(tmp_path / "e", precisions={"int8": int8, "fp16": fp16})
    found = sensitivity(gather([folder]).certificates)
    assert found is not None
    assert found.claims[0] == "e: int8 loses 0.40 points of the 0.5 allowed, cosine 0.99900; 1 layer stays float."
    assert "activations up to 7e+04; it overflows at 65504" in found.claims[1]
    svg = found.charts[0].svg
    assert svg.index("9.0 dB, stays float") < svg.index("30.0 dB") and "<img" not in svg
    assert [row[-1] for row in found.tables[0].rows] == ["30.0", "9.0", ""]
    # Foreign content must not break the report.
    for odd in (
        {"int8": 3, "fp16": []},
        {"int8": {"layers": [3, {}], "drop": "x"}},
        {"fp16": {"ranges": {"max_weight": []}}},
    ):
        sensitivity(gather([export(tmp_path / str(len(str(odd))), precisions=odd)]).certificates)


def test_detections_are_counted_and_only_pictures_beside_them_are_shown(mixed: tuple[Path, Content]) -> None:
    found = section(mixed[1], "detections")
    assert found.tables[0].rows == (("found", "3", "4", "2", "1", "1", "7 (4)"),)
    assert found.pictures == (("found, a.png", PNG),)


def test_the_accuracy_of_a_measured_file_is_that_of_its_training(
    mixed: tuple[Path, Content], tmp_path: Path, make_record: Callable[..., Record]
) -> None:
    shutil.copytree(ASSETS / "training", tmp_path / "t")
    (tmp_path / "t" / "best.pt").write_bytes(b"a checkpoint")
    checkpoint = sha256(tmp_path / "t" / "best.pt")
    folder = export(tmp_path / "e", source={"net": "vgg6", "sha256": checkpoint})
    found = gather([tmp_path])
    digest = sha256(folder / "model.onnx")
    found.records += [
        make_record("exported", artefact_sha256=digest),
        make_record("trained", artefact_sha256=checkpoint),
        make_record("known", artefact_sha256=digest, facts={"top1": 1.0, "top1_source": "mine"}),
        make_record("other", artefact_sha256="0" * 64),
    ]
    (table,) = tables_of(with_scores(found))
    score = 100 * (found.runs[0].score or 0)
    assert [row.top1 for row in table.rows] == [score, score, 1.0, None]
    assert table.rows[0].top1_source == "test set, training t"


def test_hostile_names_are_text_in_every_section(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    for kind in ("search", "training", "training_compare", "search_compare"):
        shutil.copytree(ASSETS / kind, tmp_path / f"{kind}{name}")
    export(tmp_path / f"e{name}")
    detections(tmp_path / f"d{name}")
    html = HtmlPage(page(content_of([tmp_path], name, pictures=False), tmp_path / "page.html"))
    assert html.tags.count("script") == 1 and not any(each.startswith("on") for each in html.attributes)
    images = [attrs["src"] for tag, attrs in html.elements if tag == "img"]
    assert len(images) == 1 and str(images[0]).startswith("data:image/png;base64,")
