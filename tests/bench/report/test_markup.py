from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from irepdeploy.bench.report.markup import Html, clean, join, tag

TEXT = st.text(st.characters(codec=None))


class Seen(HTMLParser):
    """Elements, attributes and text of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@given(TEXT)
def test_text_stays_text(text: str) -> None:
    seen = Seen(tag("p", text, data_value=text))
    assert seen.tags == ["p"]
    assert seen.text == clean(text)
    ((name, value),) = seen.attributes
    assert name == "data-value" and value is not None and value.replace("\n", " ") == clean(text)


@given(TEXT)
def test_what_is_cleaned_can_be_written(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode("utf-8")
    assert len(cleaned) == len(text) and "\n" not in cleaned and "\x00" not in cleaned and "\u202e" not in cleaned


def test_no_name_turns_the_reading_order() -> None:
    assert clean("a\u202eb\u2066c\u200fd\te\x1bf\ud800") == "a\ufffdb\ufffdc\ufffdd e\ufffdf\ufffd"


def test_attributes() -> None:
    assert tag("td", "x", class_="a", aria_sort="none", hidden=True, title=None, data_value=0) == (
        '<td class="a" aria-sort="none" hidden data-value="0">x</td>'
    )
    assert tag("td", hidden=False) == "<td></td>"
    assert tag("rect", x=1) == '<rect x="1"/>'
    assert tag("g", data_tip="a\nb") == '<g data-tip="a\nb"></g>'


def test_only_what_is_markup_is_left_alone() -> None:
    assert join([Html("<b>"), "<b>", 3], " ") == "<b> &lt;b&gt; 3"
    assert tag("p", "a", Html("<b>")) == "<p>a<b></p>"
