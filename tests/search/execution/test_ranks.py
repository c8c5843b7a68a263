from __future__ import annotations

import json
import signal
from types import SimpleNamespace

import pytest

from irepdeploy.errors import InputError, RunError
from irepdeploy.search.execution import rendezvous
from irepdeploy.search.execution.ranks import Ranks
from support.processes import run_ranks

_EXCHANGE = """
import json, torch
from irepdeploy.search.execution.ranks import Ranks

with Ranks.from_environment() as ranks:
    squares = ranks.gather([index * index for index in ranks.share(7)], 7)
    few = ranks.gather(["only"] if ranks.first else [], 1)
    parts = ranks.gather_flat(torch.full((ranks.rank,), ranks.rank + 0.5), list(range(ranks.size)))
    total = ranks.sum(torch.tensor([1.0, ranks.rank]))
    ranks.barrier()
print(json.dumps([ranks.rank, squares, few, [part.tolist() for part in parts], total.tolist()]))
"""

# One of three ranks is lost while the others wait for it.
_LOSE = """
import os, signal, sys
from datetime import timedelta
from irepdeploy.errors import RunError
from irepdeploy.search.execution import ranks as module
from irepdeploy.search.execution.ranks import Ranks

# A rank that waits until others know of its failure must not be what they wait for.
module._LINGER = 600.0

try:
    with Ranks.from_environment(timeout=60) as ranks:
        ranks.barrier()
        if ranks.rank == WHO and "HOW" == "error":
            raise RunError("out of memory", hint="a smaller batch")
        if ranks.rank == WHO:
            os.kill(os.getpid(), signal.HOW)
        if "HOW" == "SIGSTOP":
            # The last rank has time for the first, which must be the one that notices.
            ranks._timeout = timedelta(seconds=1 if ranks.first else 4)
        ranks.gather([ranks.rank], 3)
except RunError as error:
    print(error.line)
    sys.exit(error.exit_code)
"""


def test_every_rank_gets_the_whole_list_in_index_order() -> None:
    ends = run_ranks(_EXCHANGE, 3)
    assert [end.returncode for end in ends] == [0, 0, 0], ends[0].stderr
    results = [json.loads(end.stdout) for end in ends]
    assert [result[0] for result in results] == [0, 1, 2]
    for result in results:
        assert result[1:] == [[0, 1, 4, 9, 16, 25, 36], ["only"], [[], [1.5], [2.5, 2.5]], [3.0, 3.0]]


@pytest.mark.parametrize(
    ("how", "who", "words"),
    [
        ("SIGKILL", 1, "rank 1 of 3 did not answer any more"),
        ("SIGSTOP", 1, "rank 1 of 3 did not answer within 1 s"),
        ("error", 1, "rank 1 of 3 failed: out of memory"),
        ("error", 0, "rank 0 of 3 failed: out of memory"),
    ],
)
def test_a_lost_rank_ends_the_others_with_an_error_that_names_it(how: str, who: int, words: str) -> None:
    ends = run_ranks(_LOSE.replace("HOW", how).replace("WHO", str(who)), 3)
    lost = ends.pop(who)
    assert lost.returncode == (RunError.exit_code if how == "error" else -signal.SIGKILL), lost.stderr
    for end in ends:
        assert end.returncode == RunError.exit_code, end.stderr
        assert words in end.stdout
        assert "--resume" in end.stdout


def test_alone_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with Ranks.from_environment() as ranks:
        assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)
        assert list(ranks.share(4)) == [0, 1, 2, 3]
        assert ranks.gather(["a", "b"], 2) == ["a", "b"]
        ranks.barrier()


def test_ranks_that_never_come_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    # The time is up only once rank 0 has found itself.
    clock = iter([0.0, 0.0, 60.0])
    monkeypatch.setattr(rendezvous, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(RunError, match="rank 1 of 2 did not join within 60 s"):
        Ranks.from_environment(timeout=60)


def test_a_variable_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match="WORLD_SIZE: 'two' is not a number"):
        Ranks.from_environment()
