"""The command, the files it writes, and the page without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.bench.report.write import write_report
from irepdeploy.board.protocol import summary
from irepdeploy.cli import main
from irepdeploy.errors import InputError, OutputError
from irepdeploy.runs.record import Record
from irepdeploy.verify.certificate import Artefact, Certificate
from support.html_page import HtmlPage

Make = Callable[..., Record]
Write = Callable[..., Path]


def seen_page(path: Path) -> HtmlPage:
    return HtmlPage(path.read_text())


def test_by_default_it_lies_beside_the_records(
    records_of_table2: list[Record], write_records: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_records(records_of_table2)
    assert main(["report", str(folder)]) == 0
    names = ["report.html", "report.csv", "report.md"]
    verdict, *written = capsys.readouterr().out.splitlines()
    assert verdict == "Fastest on AMD EPYC, 2 cores, 24 GiB with torch: VGG, BN folded, 9.71 ms."
    assert written == [f"wrote {folder / name}" for name in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "records.jsonl"])


def test_the_page_has_the_figures_of_its_records(records_of_table3: list[Record], page: Path) -> None:
    seen = seen_page(page)
    heads, *rows = seen.tables["table-1"]
    of_torch = [record for record in records_of_table3 if record.runner["provider"] == "torch"]
    assert [row[0] for row in rows[:6]] == [f"{record.model}{'1' * (i < 3)}" for i, record in enumerate(of_torch[:6])]
    for row, record in zip(rows, of_torch, strict=True):
        cells = dict(zip(heads, row, strict=True))
        assert float(cells["median, ms"]) == pytest.approx(summary(record.samples_ns).median_ms, abs=0.005)
        assert float(cells["paper, ms"]) == record.facts["paper_ms"]
        assert float(cells["top-1, % (paper, not measured)"]) == record.facts["top1"]
        assert cells["n"] == "80"
    assert rows[6][0] == "P-DARTSunsteady"
    assert "2 of 28 rows are marked unsteady" in seen.text
    assert "Differences between devices" in seen.text and "NVIDIA H200" in seen.text
    assert "the paper does not say whether TF32 was on" in seen.text
    assert "irepdeploy bench --suite table3 --out r" in seen.text


def test_nothing_is_loaded_and_only_its_own_script_may_run(page: Path) -> None:
    text, seen = page.read_text(), seen_page(page)
    assert {tag for tag, _ in seen.elements} & {"link", "iframe", "object", "embed", "base", "form"} == set()
    assert [attrs for tag, attrs in seen.elements if tag == "script"] == [{}]
    assert not any(name.startswith("on") for _, attrs in seen.elements for name in attrs)
    assert not re.search(r"(?:src|href|action)=\"(?!#|data:image/svg)", text)
    (policy,) = (
        attrs["content"] for tag, attrs in seen.elements if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    for element in ("script", "style"):
        (content,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none'; ")


def test_the_same_records_are_the_same_page(
    records_of_table2: list[Record], write_records: Write, tmp_path: Path
) -> None:
    folder = write_records(records_of_table2)
    first = [path.read_bytes() for path in write_report([folder], out=tmp_path / "a").files]
    assert [path.read_bytes() for path in write_report([folder], out=tmp_path / "b").files] == first


def test_versions_of_the_protocol_are_separated_and_it_is_reported(make_record: Make, write_records: Write) -> None:
    folder = write_records([make_record("a", protocol_version=1), make_record("a", protocol_version=2)])
    page = seen_page(write_report([folder]).files[0])
    assert "The records are of protocol versions 1 and 2. Figures of different versions are listed" in page.text
    assert [[row[0] for row in page.tables[f"table-{number}"][1:]] for number in (1, 2)] == [["a"], ["a"]]
    headings = re.findall(r"\(protocol version \d\)", page.text)
    assert headings == ["(protocol version 2)", "(protocol version 1)"]
    alone = seen_page(write_report([write_records([make_record("a")])]).files[0])
    assert "protocol versions 1" not in alone.text and "(protocol version" not in alone.text


def test_a_certificate_is_linked_from_the_page_and_from_its_row(
    make_record: Make, write_records: Write, tmp_path: Path
) -> None:
    # A folder named like a URL scheme must stay a folder.
    export = tmp_path / "javascript:alert(1)"
    export.mkdir()
    (export / "model.onnx").write_bytes(b"model")
    artefact = Artefact.of(export / "model.onnx")
    Certificate(source={"net": "vgg6"}, target={"name": "ort"}, artefacts=[artefact]).save(export / "certificate.json")
    folder = write_records([make_record("a", artefact_sha256=artefact.sha256), make_record("b")])
    page = seen_page(write_report([folder, export], out=tmp_path / "page").files[0])
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a" and not str(attrs["href"]).startswith("#")]
    assert links == ["../javascript%3Aalert%281%29/certificate.json"] * 2
    assert page.tables["table-1"][1][0] == "acertificate" and page.tables["table-1"][2][0] == "b"


def test_places_to_write_to(make_record: Make, write_records: Write, tmp_path: Path) -> None:
    folder = write_records([make_record("a")])
    names = [path.name for path in write_report([folder], out=tmp_path / "deep" / "mine.html").files]
    assert names == ["mine.html", "mine.csv", "mine.md"]
    assert write_report([folder], out=tmp_path / "folder").files[0] == tmp_path / "folder" / "report.html"
    assert write_report([folder / "records.jsonl"]).files[0] == folder / "report.html"
    (tmp_path / "a.pdf").write_text("mine")
    with pytest.raises(OutputError, match=r"ends in .html"):
        write_report([folder], out=tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_text() == "mine"
    with pytest.raises(OutputError):
        write_report([folder], out=tmp_path / "a.pdf" / "b.html")


def test_json_for_machines(
    records_of_table2: list[Record], write_records: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_records(records_of_table2)
    assert main(["report", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"][0] == str(folder / "report.html")
    assert [row["model"] for row in found["rows"]][:2] == ["VGG, BN folded", "RepVGG, fused"]


@pytest.mark.parametrize("arguments", [[], ["{tmp}/nowhere"], ["{tmp}"], ["{tmp}", "--out", "{tmp}/x.html"]])
def test_nothing_to_report_is_the_users_error(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *(text.format(tmp=tmp_path) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.strip()
    assert list(tmp_path.iterdir()) == []


def test_a_row_that_ties_with_the_reference_says_so(make_record: Make, write_records: Write) -> None:
    board = {"system": {"board": "Nano"}}
    times = {"a": 10.0, "b": 10.0, "c": 12.0}
    records = [make_record(name, ms, seed=index) for index, (name, ms) in enumerate(times.items())]
    page = seen_page(write_report([write_records([*records, make_record("a", 10.0, seed=9, **board)])]).files[0])
    heads, *rows = page.tables["table-1"]
    cells = [row[next(index for index, head in enumerate(heads) if "reference" in head)] for row in rows]
    assert [cell.endswith("tie") for cell in cells] == [False, True, False]
    # On another device too.
    assert "\N{MULTIPLICATION SIGN}, a tie" in page.text


def test_a_title_is_text(make_record: Make, write_records: Write) -> None:
    page = seen_page(
        write_report([write_records([make_record("a")])], title="</title><script>alert(1)</script>").files[0]
    )
    assert [tag for tag, _ in page.elements].count("script") == 1


def test_records_of_a_stranger_end_no_report(make_record: Make, write_records: Write) -> None:
    """JSON values that a record may contain where its schema requires an object."""
    odd: list[Any] = [{}, {"cpu": [], "gpu": [3, {"name": 5}], "a": {"b": [{"c": None}]}, "": ""}]
    objects = ("system", "runner", "warmup", "conditions", "facts", "power", "system_after")
    texts = dict.fromkeys(("suite", "scenario", "source", "precision"), " ")
    records = [make_record("a", **dict.fromkeys(objects, value), **texts) for value in odd]
    assert write_report([write_records(records)]).files[0].stat().st_size > 10_000


def test_committed_records_make_a_report(tmp_path: Path) -> None:
    records = Path(__file__).parents[3] / "bench" / "records"
    written = write_report([records], out=tmp_path)
    assert written.content.notes == [note for note in written.content.notes if "omitted" not in note]
    assert written.content.tables and written.content.others


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text('{"schema": 2, "samples_ns": [1]}\n')
    with pytest.raises(InputError, match=r"records.jsonl, line 1"):
        write_report([tmp_path / "records.jsonl"])
