"""Handling of SIGTERM and SIGHUP: like Ctrl-C, they raise an exception, so that everything is cleaned up."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["Terminated", "raise_on_signals"]

_WORDS = {signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM or SIGHUP; code that handles Ctrl-C also handles this."""

    def __init__(self, number: int) -> None:
        super().__init__(_WORDS[signal.Signals(number)])
        self.exit_code = 128 + number


@contextlib.contextmanager
def raise_on_signals() -> Iterator[None]:
    """Raise `Terminated` in the main thread at the first signal; a second signal ends the process immediately.

    A signal that is ignored (as under nohup) or already has a handler is left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process, received = os.getpid(), list[int]()
    ours = [number for number in _WORDS if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, frame: FrameType | None) -> None:
        for each in ours:
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() != process:
            # A forked worker process has nothing to clean up.
            os.kill(os.getpid(), number)
        # torch's handler would report the image decoding processes, which received the signal too.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        received.append(number)
        raise Terminated(number)

    for number in ours:
        signal.signal(number, end)
    try:
        yield
    except BaseException as error:
        if received and not isinstance(error, Terminated):
            # A consequence of the signal, such as a child process that received it too.
            raise Terminated(received[0]) from error
        raise
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
