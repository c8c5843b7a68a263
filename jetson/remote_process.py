"""A command that runs on another machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from typing import IO

from irepdeploy.errors import IrepdeployError

__all__ = ["RemoteProcess"]

_CHUNK = 1 << 18
_STDERR_TAIL = 8192


class RemoteProcess:
    """A running remote command; `stdout` starts after the output of the login shell."""

    def __init__(
        self, child: subprocess.Popen[bytes], errors: IO[bytes], failure: Callable[[str], IrepdeployError]
    ) -> None:
        self._child, self._errors, self._failure = child, errors, failure
        assert child.stdin is not None and child.stdout is not None
        self.stdin, self.stdout = child.stdin, child.stdout
        self.finished = False

    def close_stdin(self) -> None:
        """Close the command's stdin."""
        with contextlib.suppress(OSError):
            self.stdin.close()

    def kill(self) -> None:
        """Kill the local client; the remote command sees the end of its stdin."""
        with contextlib.suppress(OSError):
            self._child.kill()

    def finish(self) -> tuple[int, str]:
        """Wait for the end and return the exit code and the tail of stderr."""
        self.close_stdin()
        with contextlib.suppress(OSError, ValueError):
            while self.stdout.read(_CHUNK):
                pass
        self.stdout.close()
        code = self._child.wait()
        with self._errors as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _STDERR_TAIL))
            text = file.read().decode(errors="replace")
        self.finished = True
        if code == 255 or code < 0:
            raise self._failure(text)
        return code, text
