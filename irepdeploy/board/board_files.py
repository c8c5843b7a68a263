"""Files and programs of a board, below a root that tests can replace."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from typing import NamedTuple

from irepdeploy.errors import IrepdeployError, MissingError, RunError

__all__ = ["BoardFiles", "Said"]

_FOLDERS = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/local/bin", "usr/src/tensorrt/bin")
_LIMIT_S = 60
_LINE_S = 5


class Said(NamedTuple):
    """The exit code of a program, and its stdout and stderr together."""

    code: int
    text: str


class BoardFiles:
    """Reads files and runs programs of a board.

    Args:
        root: "/" for the machine this runs on, or a folder with the same files and fake programs; nothing outside it
            is then read, run or changed.
    """

    def __init__(self, root: str = "/") -> None:
        self.root = os.path.abspath(root)

    @property
    def real(self) -> bool:
        """Whether this is the machine itself."""
        return self.root == "/"

    def path(self, name: str) -> str:
        """Return the path of a file such as ``/sys/...`` below the root."""
        return os.path.join(self.root, name.lstrip("/"))

    def read(self, name: str) -> str:
        """Return the text of a file without trailing blanks and NULs, or "" if it cannot be read."""
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read().rstrip(" \t\r\n\0")
        except OSError:
            return ""

    def number(self, name: str) -> int | None:
        """Return the integer in a file, or None if there is none."""
        try:
            return int(self.read(name))
        except ValueError:
            return None

    def find(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern, sorted, as seen from the root."""
        found = sorted(glob.glob(self.path(pattern)))
        return ["/" + os.path.relpath(path, self.root) for path in found]

    def program(self, name: str) -> str | None:
        """Return the path of a program, or None if it is not installed."""
        for folder in _FOLDERS:
            path = os.path.join(self.root, folder, name)
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return path
        return shutil.which(name) if self.real else None

    def run(self, name: str, *arguments: str, as_root: bool = False, stdin: str = "") -> Said:
        """Run a program of the board to its end.

        Raises:
            MissingError: If it is not installed, or sudo asks for a password.
            RunError: If it does not end in time or cannot be started.
        """
        path = self.program(name)
        if path is None:
            raise MissingError(
                f"{name} is not installed", hint="it comes with JetPack: sudo apt-get install nvidia-jetpack"
            )
        said = self._run([*(self._sudo() if as_root else []), path, *arguments], name, stdin)
        if as_root and said.code and "sudo:" in said.text:
            raise MissingError(f"{name} needs root, and sudo asks for a password", hint=sudoers_hint())
        return said

    def first_line(self, name: str, *arguments: str) -> str:
        """Return the first line of a program that keeps printing, or "" if none comes in time."""
        path = self.program(name)
        if path is None:
            return ""
        try:
            process = subprocess.Popen([path, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except OSError:
            return ""
        timer = threading.Timer(_LINE_S, process.kill)
        timer.start()
        try:
            with process:
                line = process.stdout.readline() if process.stdout is not None else b""
                process.kill()
        finally:
            timer.cancel()
        return line.decode("utf-8", "replace")

    def may_run_as_root(self, commands: Sequence[Sequence[str]]) -> bool:
        """Return whether these programs can be run as root without a password; each command is run, to find out.

        ``sudo -n -l PROGRAM`` would not tell: it says that a program is permitted, be it with a password, and needs
        no password itself if any other rule needs none (sudoers' ``listpw``).
        """
        if any(self.program(name) is None for name, *_ in commands):
            return False
        if not self._sudo() and self.real and os.geteuid() != 0:
            return False
        for name, *arguments in commands:
            try:
                self.run(name, *arguments, as_root=True)
            except IrepdeployError:
                return False
        return True

    def _sudo(self) -> list[str]:
        sudo = self.program("sudo")
        if sudo is None or (self.real and os.geteuid() == 0):
            return []
        return [sudo, "-n"]

    def _run(self, command: list[str], name: str, stdin: str) -> Said:
        environment = {**os.environ, "LC_ALL": "C"}
        try:
            done = subprocess.run(
                command,
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                timeout=_LIMIT_S,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RunError(f"{name} did not end within {_LIMIT_S} s", where=name) from error
        except OSError as error:
            raise RunError(f"cannot run {name}: {error.strerror}", where=name) from error
        return Said(done.returncode, done.stdout)


def sudoers_hint() -> str:
    """Return how to permit setting power modes and clocks without a password."""
    line = "USER ALL=(root) NOPASSWD: /usr/sbin/nvpmodel, /usr/bin/jetson_clocks"
    return f"on the board: sudo visudo -f /etc/sudoers.d/irepdeploy, with the line: {line}; or --clocks as-is"
