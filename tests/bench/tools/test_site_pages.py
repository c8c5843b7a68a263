"""The hook of the site: generated pages, links to files of the repository, and forbidden loading."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from irepdeploy.recipe import Recipe, keys_of

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
from irepdeploy.bench.tools import site_pages


def test_every_key_and_every_command_has_its_line() -> None:
    recipe = site_pages.recipe_page()
    assert [key for key in keys_of(Recipe) if f"| `{key}` |" not in recipe and f"| [`{key}`](#" not in recipe] == []
    assert "| `search.strategy` | `des` or `evolution` or `topk` or `random` | `des` |" in recipe
    commands = site_pages.commands_page()
    for heading in ("irepdeploy search", "irepdeploy search compare", "irepdeploy plot arch", "irepdeploy doctor"):
        assert f"\n## {heading}\n" in commands
    assert "(default)" not in commands and "NOT AVAILABLE" not in commands and "Usage:" not in commands


def test_links_to_the_repository_lead_to_copies() -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="hardware.md"))
    text = "[a](../CHANGELOG.md#x), [b](merged-step.md), [c](../bench/records), [d](http://x), <details>\n"
    text += "```\n](../a)\n```\n"
    done = site_pages.on_page_markdown(text, page=page, config=None, files=None)
    assert done.startswith("[a](files/CHANGELOG.md#x), [b](merged-step.md), c, [d](http://x), <details markdown")
    assert "\n```\n](../a)\n```\n" in done
    page.file.src_uri = "files/CHANGELOG.md"
    assert site_pages.on_page_markdown("[m](docs/m.md)", page=page, config=None, files=None) == "[m](../m.md)"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://unpkg.com/x.js"></script>'),
        ("a.html", "<script async src=//cdn/x.js></script>"),
        ("a.html", '<link rel="stylesheet" href="https://fonts.googleapis.com/css">'),
        ("a.html", '<link href="https://fonts.gstatic.com" rel="preconnect" crossorigin>'),
        ("a.html", '<img alt="" src="http://badge">'),
        ("a.css", '@import "https://x/y.css";'),
        ("a.css", "@font-face { src: url('//fonts/x.woff2') }"),
        ("a.html", "<p>A list:\n- one</p>"),
    ],
)
def test_a_page_that_loads_from_elsewhere_fails(tmp_path: Path, name: str, text: str) -> None:
    config = SimpleNamespace(site_dir=str(tmp_path))
    (tmp_path / "fine.html").write_text('<a href="https://arxiv.org">x</a><link rel="canonical" href="https://a.b">')
    site_pages.on_post_build(config)
    (tmp_path / name).write_text(text)
    with pytest.raises(site_pages.PluginError, match=name):
        site_pages.on_post_build(config)


def test_a_notebook_becomes_a_page(tmp_path: Path) -> None:
    cells = [{"cell_type": "markdown", "source": ["# T\n", "text"]}, {"cell_type": "code", "source": ["a = 1\n", "a"]}]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    assert site_pages.notebook_page(tmp_path / "n.ipynb").startswith("# T\ntext\n\n```python\na = 1\na\n```\n")
