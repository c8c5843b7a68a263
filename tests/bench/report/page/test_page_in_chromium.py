"""The page opened in a real browser, without network access."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.bench.report.watch import Watched, server_of
from irepdeploy.bench.report.write import write_report
from irepdeploy.runs.record import Record

Write = Callable[..., Path]
ASSETS = Path(__file__).parents[3] / "runs" / "assets"
# Text of the visible cells of a column, by the number of the table and of the column.
COLUMN = "[...document.querySelectorAll('#table-{} tbody tr')].map(row => row.cells[{}].dataset.value ?? null)"
TIP = "(tip => [!tip.hidden, tip.textContent])(document.getElementById('tip'))"
FRAMES = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))"
HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "\"onmouseover=\"document.title='owned'",
    "'); document.title='owned'; ('",
    '=HYPERLINK("http://example.invalid")',
    "a\u202egnp.exe\x00\x1b[31m\ud800",
    "very-long-name-" * 40,
]


@pytest.fixture(scope="module")
def hostile_page(write_records: Write, make_record: Callable[..., Record]) -> Path:
    records = []
    for index, name in enumerate(HOSTILE):
        facts = {"top1": 70.0 + index, "top1_source": name, "notes": [name], "family": name, "paper_ms": 3.0}
        runner = {"runner": "torch", "provider": name, "device": "cpu", name: name}
        system = {"cpu": {"model": name, "logical_cores": 2}, name: name}
        changes: dict[str, Any] = {"facts": facts, "runner": runner, "system": system, "suite": name, "argv": [name]}
        records += [make_record(name, 3.0 + index, **changes), make_record(f"{name}!", 4.0, **changes)]
    return write_report([write_records(records)], title=HOSTILE[1]).files[0]


@pytest.fixture(scope="module")
def runs_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trainings, a search and its comparison."""
    folder = tmp_path_factory.mktemp("runs")
    for name, kind in (("again", "training"), ("training", "training"), ("search", "search")):
        shutil.copytree(ASSETS / kind, folder / name)
    return write_report([folder, ASSETS / "search_compare"], out=folder / "page.html").files[0]


def test_it_is_drawn_without_an_error_and_without_network(chromium: Any, page: Path) -> None:
    chromium.open(page)
    assert chromium.messages == []
    assert chromium.requests == [page.as_uri()]
    assert chromium.run("document.querySelectorAll('table.sortable tbody tr').length") == 28
    assert chromium.run("document.querySelectorAll('svg .dot').length") == 28
    assert chromium.run("[...document.querySelectorAll('.chart')].every(chart => chart.getBBox().width > 300)")
    # Every link has a target.
    anchors = chromium.run("[...document.querySelectorAll('a[href^=\"#\"]')].map(each => each.getAttribute('href'))")
    assert len(anchors) == 5
    assert all(chromium.run(f"document.querySelectorAll('{anchor}').length") == 1 for anchor in anchors)


def test_a_heading_sorts_its_table_both_ways(chromium: Any, page: Path) -> None:
    chromium.open(page)
    headings = chromium.run("[...document.querySelectorAll('#table-1 thead th')].map(each => each.innerText)")
    column = next(index for index, text in enumerate(headings) if text.startswith("median"))
    state = f"document.querySelectorAll('#table-1 thead th')[{column}].getAttribute('aria-sort')"
    click = f"document.querySelectorAll('#table-1 thead button')[{column}].click()"
    before = [float(value) for value in chromium.run(COLUMN.format(1, column))]
    assert chromium.run(state) == "none"
    assert before != sorted(before)
    chromium.run(click)
    assert (chromium.run(state), list(map(float, chromium.run(COLUMN.format(1, column))))) == (
        "ascending",
        sorted(before),
    )
    chromium.run(click)
    assert list(map(float, chromium.run(COLUMN.format(1, column)))) == sorted(before, reverse=True)
    assert chromium.run(state) == "descending"
    # Another table does not change, and cells of a row stay together.
    assert [float(value) for value in chromium.run(COLUMN.format(2, column))] != sorted(before)
    pairs = dict(zip(chromium.run(COLUMN.format(1, 0)), chromium.run(COLUMN.format(1, column)), strict=True))
    assert float(pairs["DARTS (second)"]) == min(before)
    # The keyboard sorts too.
    chromium.run("document.querySelector('#table-1 thead button').focus()")
    chromium.press("Enter")
    assert chromium.run("document.querySelector('#table-1 thead th').getAttribute('aria-sort')") == "ascending"


def test_names_are_sorted_as_names_and_what_is_missing_comes_last(chromium: Any, page: Path) -> None:
    chromium.open(page)
    button = "document.querySelector('#table-3 thead th:nth-child({}) button').click()"
    chromium.run(button.format(1))
    names = chromium.run(COLUMN.format(3, 0))
    assert names == sorted(names, key=str.lower)
    headings = chromium.run("[...document.querySelectorAll('#table-3 thead th')].map(each => each.innerText)")
    paper = next(index for index, text in enumerate(headings) if text.startswith("paper, ms"))
    chromium.open(page)
    assert chromium.run(COLUMN.format(3, paper)) == [None, "1.76", "1.76", "31.0"]
    chromium.run(button.format(paper + 1))
    assert chromium.run(COLUMN.format(3, paper)) == ["1.76", "1.76", "31.0", None]
    chromium.run(button.format(paper + 1))
    assert chromium.run(COLUMN.format(3, paper)) == ["31.0", "1.76", "1.76", None]


def test_a_point_under_the_pointer_says_what_it_is(chromium: Any, page: Path) -> None:
    chromium.open(page)
    assert chromium.run(TIP)[0] is False
    place = chromium.run(
        "(mark => { mark.scrollIntoView({block: 'center'}); const box = mark.getBoundingClientRect();"
        " return [box.x + box.width / 2, box.y + box.height / 2]; })"
        "([...document.querySelectorAll('.mark')].find(mark => mark.dataset.tip.startsWith('CARS')"
        " && mark.querySelector('.dot')))"
    )
    chromium.hover(*place)
    chromium.run(FRAMES)
    shown, text = chromium.run(TIP)
    assert shown
    assert re.fullmatch(r"CARS\nmedian 21\.7 ms\ntop-1 75\.20 % \(paper, not measured\)\nnot on the Pareto front", text)
    box = chromium.run("(box => [box.left, box.top, box.right, box.bottom])(tip.getBoundingClientRect())")
    assert box[0] >= 0 and box[1] >= 0 and box[2] <= 1280 and box[3] <= 900
    chromium.hover(2, 2)
    assert chromium.run(TIP)[0] is False


def test_a_point_with_the_focus_says_it_and_escape_ends_it(chromium: Any, page: Path) -> None:
    chromium.open(page)
    # Below the fold: the page scrolls by itself.
    assert chromium.run("document.querySelector('#tables .mark').getBoundingClientRect().y > innerHeight")
    chromium.run("document.querySelector('#tables .mark').focus()")
    chromium.run(FRAMES)
    shown, text = chromium.run(TIP)
    assert shown and text.startswith("ResNet-18\nmedian 50.2 ms")
    assert chromium.run("document.activeElement.getAttribute('aria-describedby')") == "tip"
    # A screen reader gets the same text.
    assert chromium.run("document.activeElement.getAttribute('aria-label')") == text.replace("\n", ", ")
    # A chart is a single stop of the Tab key; the arrow keys move from mark to mark.
    chromium.press("ArrowRight")
    assert chromium.run(TIP)[1].startswith("ResNet-34\n")
    chromium.press("Escape")
    assert chromium.run(TIP)[0] is False


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_read_in_light_and_in_dark(chromium: Any, page: Path, dark: bool) -> None:
    chromium.open(page, dark=dark)
    back = luminance(chromium.run("getComputedStyle(document.body).backgroundColor"))
    assert (back < 0.1) if dark else (back > 0.9)
    texts = ["body", ".lede", "caption", "thead th", "td", ".below", ".badge", "figcaption", "a[href]", "summary", "dt"]
    for selector in texts:
        colour = chromium.run(f"getComputedStyle(document.querySelector('{selector}')).color")
        assert contrast(luminance(colour), back) >= 4.5, selector
    shapes = {".dot": "stroke", ".dot.front": "fill", ".box": "stroke", ".median": "stroke", ".beyond": "stroke"}
    for selector, property in [*shapes.items(), (".tick", "fill"), (".label", "fill")]:
        colour = chromium.run(f"getComputedStyle(document.querySelector('.chart {selector}')).{property}")
        assert contrast(luminance(colour), back) >= (4.5 if selector in (".tick", ".label") else 3.0), selector


def test_nothing_is_wider_than_a_phone_nor_does_a_tooltip_leave_its_screen(
    chromium: Any, page: Path, hostile_page: Path
) -> None:
    for path in (page, hostile_page):
        chromium.open(path, width=360, height=740, phone=True)
        chromium.run("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert chromium.run("document.documentElement.scrollWidth") == 360
        assert chromium.run("innerWidth") == 360
    # Tables are not squeezed: they scroll in a box that can be reached by keyboard.
    chromium.open(page, width=360, height=740, phone=True)
    box = "document.querySelector('.scroll:has(#table-1)')"
    assert chromium.run(f"[{box}.scrollWidth > {box}.clientWidth, {box}.tabIndex]") == [True, 0]
    assert chromium.run("document.querySelector('#tables .chart').getBoundingClientRect().width") >= 500
    # Charts drawn for phones do not scroll.
    assert chromium.run("document.querySelector('#verdict .chart').getBoundingClientRect().width") <= 360
    # A tooltip stays on the screen.
    for index in range(8):
        chromium.run(f"document.querySelectorAll('.mark')[{index}].focus()")
        left, right = chromium.run("(box => [box.left, box.right])(tip.getBoundingClientRect())")
        assert left >= 0 and right <= 360
        # It is not squeezed against an edge either.
        assert right - left > 130


def test_hostile_names_are_text(chromium: Any, hostile_page: Path) -> None:
    chromium.open(hostile_page)
    assert chromium.messages == []
    assert chromium.run("document.title") == HOSTILE[1]
    foreign = "img:not([src^='data:image/svg+xml;base64,']), iframe, object, embed, link, base, form"
    assert chromium.run(f'document.querySelectorAll("{foreign}").length') == 0
    assert chromium.run("document.scripts.length") == 1
    attributes = "[...document.querySelectorAll('*')].flatMap(each => each.getAttributeNames())"
    assert [name for name in set(chromium.run(attributes)) if name.startswith("on")] == []
    shown = chromium.run("[...document.querySelectorAll('tbody th bdi')].map(each => each.textContent)")
    assert {HOSTILE[0], HOSTILE[1], HOSTILE[2]} <= set(shown)
    # Every name under the pointer is shown too.
    chromium.run("document.querySelectorAll('.mark').forEach(mark => mark.dispatchEvent(new Event('pointerenter')))")
    assert chromium.run("document.getElementById('tip').children.length") == 0
    assert chromium.messages == []


def test_a_script_that_got_in_would_not_run(chromium: Any, page: Path, tmp_path: Path) -> None:
    """The page's content security policy blocks an injected script."""
    put_in = "<main><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    changed = tmp_path / "changed.html"
    changed.write_text(page.read_text().replace("<main>", put_in))
    chromium.open(changed)
    assert chromium.run("document.title") == "Report"
    assert any("Content Security Policy" in message for message in chromium.messages)


def test_it_can_be_printed(chromium: Any, page: Path) -> None:
    chromium.open(page, dark=True)
    chromium.command("Emulation.setEmulatedMedia", media="print")
    assert luminance(chromium.run("getComputedStyle(document.body).backgroundColor")) > 0.9
    assert luminance(chromium.run("getComputedStyle(document.body).color")) < 0.1
    assert len(chromium.command("Page.printToPDF")["data"]) > 10_000


def test_a_chart_is_one_stop_and_a_button_hides_a_series(chromium: Any, runs_page: Path) -> None:
    chromium.open(runs_page)
    assert chromium.messages == []
    stops = "[...document.querySelectorAll('.chart')].map(each => each.querySelectorAll('[tabindex=\"0\"]').length)"
    assert set(chromium.run(stops)) == {1}
    # The last step with the values of all runs.
    chromium.run("document.querySelector('#curves .mark').focus()")
    chromium.press("End")
    shown, text = chromium.run(TIP)
    assert shown and re.match(r"epoch \d+\nagain: [\d.]+ %\ntraining: [\d.]+ %$", text)
    button = "document.querySelectorAll('#curves .legend button')[0]"
    seen = "getComputedStyle(document.querySelector('#curves .chart .series')).display"
    assert (chromium.run(seen), chromium.run(f"{button}.getAttribute('aria-pressed')")) == ("inline", "true")
    for display, pressed in (("none", "false"), ("inline", "true")):
        chromium.run(f"{button}.focus()")
        chromium.press("Enter")
        assert (chromium.run(seen), chromium.run(f"{button}.getAttribute('aria-pressed')")) == (display, pressed)
    colours = "[...document.querySelectorAll('#curves .chart')][0].querySelectorAll('.line')"
    for dark in (False, True):
        chromium.open(runs_page, dark=dark)
        back = luminance(chromium.run("getComputedStyle(document.body).backgroundColor"))
        for stroke in chromium.run(f"[...{colours}].map(each => getComputedStyle(each).stroke)"):
            assert contrast(luminance(stroke), back) >= 3


def test_a_served_page_loads_itself_again(chromium: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(ASSETS / "training", tmp_path / "run"))
    (run / "result.json").unlink()
    online: dict[str, Any] = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    chromium.command("Network.emulateNetworkConditions", **online)
    with server_of(Watched([run], "Mine")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            chromium.go(f"http://127.0.0.1:{server.server_port}/")
            assert "epoch 8 of 8" in chromium.run("document.querySelector('.verdict').textContent")
            with (run / "journal.jsonl").open("a") as file:
                file.write('{"event": "epoch", "epoch": 9, "val_accuracy": 0.5}\n')
            chromium.wait_for("Page.loadEventFired")
            assert "epoch 9 of 8" in chromium.run("document.querySelector('.verdict').textContent")
            assert [message for message in chromium.messages if "favicon" not in message] == []
        finally:
            server.shutdown()
            thread.join()
            chromium.command("Network.emulateNetworkConditions", **{**online, "offline": True})


def luminance(colour: str) -> float:
    """Relative luminance of an ``rgb(...)`` colour (WCAG 2)."""
    parts = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: float, other: float) -> float:
    """From 1 to 21 (WCAG 2)."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
