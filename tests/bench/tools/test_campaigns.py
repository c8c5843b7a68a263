"""Counts of campaigns: kept by campaign, and shown as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.bench.tools.campaigns import campaign_table, main, read_campaigns
from irepdeploy.bench.tools.readme_tables import main as tables
from irepdeploy.errors import InputError

PAGE = "# Page\n\n<!-- table: campaigns from robustness.json -->\n<!-- end -->\n"


def counted(folder: Path, name: str, **kinds: tuple[int, int]) -> None:
    counts = {kind: {"tried": tried, "held": held} for kind, (tried, held) in kinds.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"campaign": name, "kinds": counts}))


def test_new_counts_replace_those_of_their_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 2
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs/robustness.md"
    page.write_text(PAGE)
    counts = tmp_path / "build/campaigns"
    counted(counts, "files", cut=(1000, 1000), flipped=(500, 499))
    counted(counts, "kills", search=(10, 10))
    assert main([]) == 0
    text = page.read_text()
    assert "| all |  |  | 1,510 | 1,509 |" in text
    assert "| 2 | 1,500 | 1,499 |" in text and "| flipped | 500 | 499 |" in text
    assert text.count("<details>") == text.count("</details>") == 2 and "<summary>kills</summary>" in text
    (counts / "files.json").unlink()
    counted(counts, "kills", search=(20, 20))
    assert main([]) == 0 and "| all |  |  | 1,520 | 1,519 |" in page.read_text()
    assert tables([str(page), "--check"]) == 0
    record = tmp_path / "docs/robustness.json"
    record.write_text(record.read_text().replace("499", "500"))
    assert tables([str(page), "--check"]) == 1


@pytest.mark.parametrize("value", [1, [1], [{}], [{"campaign": "a", "date": "b", "kinds": {"c": {"tried": 1}}}]])
def test_what_is_no_record(tmp_path: Path, value: Any) -> None:
    (tmp_path / "r.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="not a record of campaigns"):
        read_campaigns(tmp_path / "r.json")


def test_the_page_is_up_to_date() -> None:
    docs = Path(__file__).parents[3] / "docs"
    assert campaign_table(read_campaigns(docs / "robustness.json")) in (docs / "robustness.md").read_text()
