"""Work with several boards in parallel: one thread each, one Ctrl-C for all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from irepdeploy.console import ProgressDisplay, ProgressTask, log
from irepdeploy.errors import IrepdeployError, one_line

from .agent_archive import AgentArchive
from .hosts import Host
from .remote_agent import Event, RemoteAgent
from .ssh import Remote

__all__ = ["Answer", "ask_boards"]

Result = TypeVar("Result")


@dataclass
class Answer(Generic[Result]):
    """The answer of a board: a value or an error."""

    host: str
    value: Result | None = None
    error: IrepdeployError | None = None


def ask_boards(
    hosts: Sequence[Host],
    work: Callable[[RemoteAgent], Result],
    *,
    archive: AgentArchive,
    display: ProgressDisplay,
    config: str | os.PathLike[str] | None = None,
    on_answer: Callable[[Answer[Result]], None] | None = None,
) -> list[Answer[Result]]:
    """Connect to every board, install the agent and call `work` with it; a board that fails does not stop the others.

    The answers are in the order of `hosts`; `on_answer` is called with each as it arrives, one at a time.

    Raises:
        KeyboardInterrupt: The user stopped the work; every board has restored its settings.
    """
    boards = [_Board(host, archive, display, config) for host in hosts]
    with ThreadPoolExecutor(len(boards)) as pool:
        futures = {pool.submit(board.answer, work): board for board in boards}
        try:
            pending = set(futures)
            answers: dict[str, Answer[Result]] = {}
            bugs = []
            while pending:
                done, pending = wait(pending, return_when="FIRST_COMPLETED")
                for future in done:
                    if (bug := future.exception()) is not None:
                        bugs.append(bug)
                        continue
                    answer = future.result()
                    answers[answer.host] = answer
                    if on_answer is not None:
                        on_answer(answer)
        except BaseException:
            _end(boards, set(futures))
            raise
    if bugs:
        raise bugs[0]
    return [answers[host.name] for host in hosts]


def _end(boards: Sequence[_Board], futures: set[Any]) -> None:
    """Stop the work on every board; a second Ctrl-C does not wait for them."""
    log("stopping the boards and restoring their clocks and power modes (press Ctrl-C again to stop waiting)")
    for board in boards:
        board.agent.stop()
    try:
        wait(futures)
    except KeyboardInterrupt:
        log("not waiting: each board will notice and restore its settings by itself")
        for board in boards:
            board.remote.stop()


class _Board:
    def __init__(
        self, host: Host, archive: AgentArchive, display: ProgressDisplay, config: str | os.PathLike[str] | None
    ) -> None:
        self.remote = Remote(host.name, config=config)
        self.agent = RemoteAgent(self.remote, archive, _Show(host.name, display), python=host.python)

    def answer(self, work: Callable[[RemoteAgent], Result]) -> Answer[Result]:
        answer: Answer[Result] = Answer(self.agent.host)
        try:
            with self.remote:
                self.agent.install()
                answer.value = work(self.agent)
        except IrepdeployError as error:
            answer.error = error
        return answer


class _Show:
    """Shows the events of a board: one line of progress per stage."""

    def __init__(self, host: str, display: ProgressDisplay) -> None:
        self._host, self._display = host, display
        self._title = ""
        self._task: ProgressTask | None = None
        self._percent = 0

    def __call__(self, event: Event) -> None:
        if event.get("event") == "log" and event.get("level") in ("warning", "error", "info"):
            log(f"{self._host}: {one_line(str(event.get('text')))}")
        elif event.get("event") == "progress":
            self._advance(event)

    def _advance(self, event: Event) -> None:
        parts = (self._host, event.get("stage"), event.get("model"))
        title = " ".join(one_line(str(part)) for part in parts if part)
        if title != self._title or self._task is None:
            self._title, self._percent = title, 0
            self._task = self._display.task(title, 100)
        share = event.get("share")
        percent = round(100 * share) if isinstance(share, int | float) and 0 <= share <= 1 else self._percent
        steps = max(0, percent - self._percent)
        if steps == 0 and self._percent == 100:
            return
        self._percent += steps
        self._task.advance(steps, note=one_line(str(event.get("step") or "")))
