"""Access to a board's files and programs, below a root folder that tests can replace."""

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
_LINE_S = 15


class Said(NamedTuple):
    """The exit code of a program and its combined stdout and stderr."""

    code: int
    text: str


class BoardFiles:
    """Reader of files and runner of programs on a board.

    Args:
        root: "/" for the machine itself, or a folder with copies of its files and fake programs. Nothing outside this
            folder is read, run or changed.
    """

    def __init__(self, root: str = "/") -> None:
        self.root = os.path.abspath(root)

    @property
    def real(self) -> bool:
        """Whether the root is the machine itself."""
        return self.root == "/"

    def path(self, name: str) -> str:
        """Return the path of a file such as ``/sys/...`` below the root."""
        return os.path.join(self.root, name.lstrip("/"))

    def read(self, name: str) -> str:
        """Return the text of a file without trailing whitespace and NULs, or "" if it cannot be read."""
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read().rstrip(" \t\r\n\0")
        except OSError:
            return ""

    def number(self, name: str) -> int | None:
        """Return the integer that a file contains, or None if it does not contain one."""
        try:
            return int(self.read(name))
        except ValueError:
            return None

    def find(self, pattern: str) -> list[str]:
        """Return the sorted paths, relative to the root, that match a glob pattern."""
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
        """Run a program of the board until it exits.

        Args:
            name: Name of the program, such as "nvpmodel".
            arguments: Command-line arguments.
            as_root: Run the program with sudo.
            stdin: Text for the program's standard input.

        Raises:
            MissingError: The program is not installed, or sudo asks for a password.
            RunError: The program does not exit in time, or cannot be started.
        """
        path = self.program(name)
        if path is None:
            raise MissingError(
                f"{name} is not installed", hint="it is part of JetPack: sudo apt-get install nvidia-jetpack"
            )
        said = self._run([*(self._sudo() if as_root else []), path, *arguments], name, stdin)
        if as_root and said.code and "sudo:" in said.text:
            raise MissingError(f"{name} needs root, and sudo asks for a password", hint=sudoers_hint())
        return said

    def first_line(self, name: str, *arguments: str) -> str:
        """Return the first line that a continuously printing program writes, or "" if none arrives in time."""
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
        """Return whether all commands can be run as root without a password, by actually running each of them.

        ``sudo -n -l PROGRAM`` is not enough: it also lists programs that require a password, and does not ask for one
        itself if any rule comes without a password (``listpw`` in sudoers).
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
            raise RunError(f"{name} did not exit within {_LIMIT_S} s", where=name) from error
        except OSError as error:
            raise RunError(f"cannot run {name}: {error.strerror}", where=name) from error
        return Said(done.returncode, done.stdout)


def sudoers_hint() -> str:
    """Return instructions for permitting power modes and clocks to be set without a password."""
    line = "USER ALL=(root) NOPASSWD: /usr/sbin/nvpmodel, /usr/bin/jetson_clocks"
    return f"on the board: sudo visudo -f /etc/sudoers.d/irepdeploy, with the line: {line}; or --clocks as-is"
