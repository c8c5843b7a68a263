"""Comparisons split into independent jobs, and joined from their results."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.cli import main
from irepdeploy.errors import InputError
from irepdeploy.parsing.json_text import unsealed
from irepdeploy.runs.comparison import SearchComparison, SearchJob
from irepdeploy.search.compare import compare
from irepdeploy.search.execution.ranks import Ranks
from irepdeploy.search.jobs import Job, join, run_job
from support.tiny import Tiny

STRATEGIES = ("topk", "random")
LESS = ("search.evolutions=1", "search.population=3", "seed=3")


def timeless(found: SearchComparison) -> dict[str, Any]:
    content = found.to_dict()
    return {**content, "runs": [{**run, "seconds": 0} for run in content["runs"]]}


@pytest.fixture(scope="module")
def jobs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three jobs of two strategies and two seeds."""
    out = tmp_path_factory.mktemp("jobs")
    for number in (1, 2, 3):
        run_job(tiny(*LESS), out / str(number), STRATEGIES, 2, Job(number, 3), ranks=Ranks.alone())
    return [out / str(number) for number in (1, 2, 3)]


def test_joined_jobs_are_what_one_process_finds(jobs: list[Path], tiny: Tiny, tmp_path: Path) -> None:
    assert {path.name for path in jobs[0].iterdir()} == {"topk-seed3", "random-seed4", "job.json"}
    whole = compare(tiny(*LESS), tmp_path, STRATEGIES, 2)
    for order in (jobs, jobs[::-1]):
        found, job = join(order)
        assert timeless(found) == timeless(whole)
        assert (job.network, job.dataset) == ("vgg6", "digits")


def changed(folder: Path, out: Path, **changes: Any) -> Path:
    shutil.copytree(folder, out)
    content = SearchJob.read(out / "job.json").to_dict() | changes
    SearchJob.model_validate_json(json.dumps(content)).write(out / "job.json")
    return out


def test_what_does_not_make_up_a_comparison_is_said(jobs: list[Path], tmp_path: Path) -> None:
    one, two, three = jobs
    other = changed(two, tmp_path / "other", recipe="0" * 64)
    retrained = changed(two, tmp_path / "retrained", retrain=True)
    (tmp_path / "empty").mkdir()
    cases: list[tuple[Sequence[Path], str]] = [
        ([one, three], "--join: 1 of 3 jobs is missing: 2 (run --job 2/3 and pass its folder too)"),
        ([three], "2 of 3 jobs are missing: 1, 2"),
        ([one, two, one], f"{one}: job 1/3 is given twice, also in {one}"),
        ([one, other, three], f"{other}: belongs to another comparison: its recipe differs from that of {one}"),
        ([one, retrained, three], "belongs to another comparison: its choice of --retrain differs"),
        ([one, tmp_path / "empty"], "job.json"),
    ]
    for folders, words in cases:
        with pytest.raises(InputError) as caught:
            join(folders)
        assert words in caught.value.line and "\n" not in caught.value.line
    content = json.loads((one / "job.json").read_text())
    (tmp_path / "empty" / "job.json").write_text(json.dumps(unsealed(content) | {"number": 2}))
    with pytest.raises(InputError, match="the runs are not those of this job"):
        join([tmp_path / "empty"])


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/3/5", "1/9999999", "٣/٣"])
def test_a_job_that_cannot_be(text: str) -> None:
    with pytest.raises(InputError, match="--job: expected a job and the number of jobs, such as 3/20"):
        Job.of(text)


def test_the_commands(jobs: list[Path], tiny_overrides: list[str], tmp_path: Path, capsys: Any) -> None:
    line = ["search", "compare", "digits", *tiny_overrides, *LESS, "--strategies", ",".join(STRATEGIES), "--seeds", "2"]
    assert main([*line, "--job", "5/5", "--out", str(tmp_path / "5")]) == 2
    assert "5 jobs for 4 runs" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "5").exists()
    mine = tmp_path / "2"
    assert main([*line, "--job", "2/3", "--out", str(mine)]) == 0
    assert "irepdeploy search compare --join FOLDER..." in capsys.readouterr().err
    joined = ["search", "compare", "--join", str(jobs[0]), str(mine), str(jobs[2]), "--out", str(tmp_path / "joined")]
    assert main(joined) == 0
    assert "Search of vgg6 on digits: 2 seeds" in capsys.readouterr().out
    assert timeless(SearchComparison.read(tmp_path / "joined" / "compare.json")) == timeless(join(jobs)[0])
    assert (tmp_path / "joined" / "compare.png").exists()
    assert main(["search", "compare", "--join", str(jobs[0]), "--job", "1/3", "--out", str(tmp_path / "no")]) == 2
    assert "--join only reads the results of finished jobs" in " ".join(capsys.readouterr().err.split())
    assert main(["search", "compare", "--join", str(jobs[0]), "--out", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()
