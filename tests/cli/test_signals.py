from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from irepdeploy.cli import program
from irepdeploy.cli.signals import Terminated, raise_on_signals


def send(number: int) -> Callable[[list[str]], int]:
    """A command that the signal reaches."""

    def command(args: list[str]) -> int:
        os.kill(os.getpid(), number)
        raise AssertionError

    return command


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")]
)
def test_a_signal_ends_a_command_with_one_line(
    number: int, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "_run", send(number))
    assert program.main(["any"]) == code
    assert capsys.readouterr() == ("", f"irepdeploy: {said}\n")
    assert signal.getsignal(number) is signal.SIG_DFL


def test_what_fails_while_a_command_is_ending_is_not_its_reason() -> None:
    with pytest.raises(Terminated, match="hung up") as caught, raise_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            raise RuntimeError("DataLoader worker is killed by signal")
    assert caught.value.exit_code == 129


def test_the_second_signal_is_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Terminated), raise_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP):
                assert signal.getsignal(number) is signal.SIG_DFL


def test_signals_that_are_ignored_or_handled_are_left_alone() -> None:
    handled: list[int] = []
    earlier = [
        signal.signal(signal.SIGHUP, signal.SIG_IGN),
        signal.signal(signal.SIGTERM, lambda number, frame: handled.append(number)),
    ]
    try:
        with raise_on_signals():
            for number in (signal.SIGHUP, signal.SIGTERM):
                os.kill(os.getpid(), number)
        assert handled == [signal.SIGTERM]
    finally:
        for number, handler in zip((signal.SIGHUP, signal.SIGTERM), earlier, strict=True):
            signal.signal(number, handler)


# Other tests in this process may have started threads.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_worker_process_that_was_forked_dies_of_its_signal() -> None:
    with raise_on_signals():
        child = os.fork()
        if not child:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_thread_leaves_signals_to_the_main_one() -> None:
    seen: list[object] = []

    def other() -> None:
        with raise_on_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]
