from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from irepdeploy.bench.report.templates import clean, macro
from support.html_page import HtmlPage

TEXT = st.text(st.characters(codec=None))


@given(TEXT)
def test_text_stays_text(text: str) -> None:
    seen = HtmlPage(macro("macros.html", "grid")(text, [("model", True)], [[text]]))
    assert seen.tags == ["div", "table", "caption", "thead", "tr", "th", "tbody", "tr", "th", "bdi"]
    assert seen.attributes["aria-label"] == clean(text)
    assert seen.text.count(clean(text)) >= 2


@given(TEXT)
def test_a_tooltip_keeps_its_lines_and_nothing_else(text: str) -> None:
    seen = HtmlPage(macro("charts.html", "mark")(text, caller=str))
    assert seen.tags == ["g"]
    tip, label = seen.attributes["data-tip"], seen.attributes["aria-label"]
    assert tip is not None and tip.split("\n") == [clean(line) for line in text.split("\n")]
    assert label == clean(text.replace("\n", ", "))


@given(TEXT)
def test_cleaned_text_can_be_written(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert len(cleaned) == len(text) and "\n" not in cleaned and "\x00" not in cleaned and "\u202e" not in cleaned


def test_no_name_turns_the_reading_order() -> None:
    assert clean("a\u202eb\u2066c\u200fd\te\x1bf\ud800") == "a\ufffdb\ufffdc\ufffdd e\ufffdf\ufffd"
