"""Run commands on another machine with the system's OpenSSH client and the user's configuration.

No user input becomes part of a shell command: scripts are constants and take arguments as quoted positional
parameters. A single connection carries all commands.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from irepdeploy.console import log
from irepdeploy.errors import InputError, IrepdeployError, MissingError

from .hosts import check_destination
from .remote_process import RemoteProcess
from .ssh_failure import LostConnection, last_line, not_connected

__all__ = ["Remote"]

Result = TypeVar("Result")

_CONNECT_S = 10
# The remote shell may have slow start-up files.
_SHELL_S = 60
_OPTIONS = (
    "BatchMode=yes",
    f"ConnectTimeout={_CONNECT_S}",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=6",
    "ClearAllForwardings=yes",
    "ControlPersist=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "LogLevel=ERROR",
)
# Pauses before reconnecting.
_PAUSES_S = (1.0, 3.0)
# The path of a socket has at most 108 bytes, of which ssh needs 17 to create it; ssh would expand "%", "$" and "~".
_SOCKET_PATH = re.compile(r"[\w./+-]{1,80}")


class Remote:
    """A machine on which to run commands, inside a ``with`` block.

    Args:
        destination: The machine, in a form that `check_destination` accepts.
        config: SSH configuration to use instead of ``~/.ssh/config``.

    Raises:
        MissingError: On entry, if there is no ssh client, or the machine is unreachable, has an unknown or changed
            key, or refuses the login.
        InputError: On entry, if the configuration is invalid.
    """

    def __init__(self, destination: str, *, config: str | os.PathLike[str] | None = None) -> None:
        self.destination = check_destination(destination)
        self._config = None if config is None else os.path.abspath(config)
        self._mark = f"irepdeploy-{secrets.token_hex(8)}"
        self._folder: str | None = None
        self._socket: str | None = None
        self._master: RemoteProcess | None = None
        self._processes: list[RemoteProcess] = []
        self._stopped = threading.Event()

    def __enter__(self) -> Remote:
        if shutil.which("ssh") is None:
            raise MissingError("ssh is not installed", hint="sudo apt-get install openssh-client")
        if self._config is not None and not Path(self._config).is_file():
            raise InputError("no such file", where=self._config, hint="--ssh-config takes a file like ~/.ssh/config")
        self._folder = tempfile.mkdtemp(prefix="irepdeploy-")
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and end everything that runs over it."""
        self._end_all()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def stop(self) -> None:
        """End all commands now and retry nothing; may be called from another thread."""
        self._stopped.set()
        for process in self._processes:
            process.kill()

    def start(self, script: str, *arguments: str) -> RemoteProcess:
        """Start ``sh -c SCRIPT`` with these positional parameters."""
        process = self._spawn(script, arguments, [])
        self._skip_to_mark(process)
        return process

    def retried(self, action: Callable[[], Result]) -> Result:
        """Return the result of `action`; if the connection breaks, reconnect and repeat it, at most twice.

        Use it only for actions that may run twice, such as a copy, but not a measurement.

        Raises:
            LostConnection: The connection broke each time.
        """
        lost: IrepdeployError | None = None
        for pause in (0.0, *_PAUSES_S):
            if lost is not None:
                if self._stopped.is_set():
                    break
                log(f"{self.destination}: the connection broke; trying again")
                try:
                    self._reconnect(pause)
                except (LostConnection, MissingError) as error:
                    lost = error
                    continue
            try:
                return action()
            except LostConnection as error:
                lost = error
        assert lost is not None
        what = lost.what if isinstance(lost, LostConnection) else f"the connection broke: {lost.what}"
        raise LostConnection(what, where=self.destination, hint="try again") from None

    def _failure(self, text: str) -> IrepdeployError:
        """Return the error for a failure of ssh itself, from its stderr and log."""
        logged = self._log()
        if self._master is None:
            return not_connected(self.destination, f"{text}\n{logged}")
        reason = last_line(logged) or last_line(text)
        return LostConnection(f"the connection broke{': ' + reason if reason else ''}", where=self.destination)

    def _connect(self) -> None:
        # Only a connection that the user holds open may work without a password.
        held = self._is_held()
        self._socket = None
        path = f"{self._folder}/s"
        options: list[str] = []
        if not held and _SOCKET_PATH.fullmatch(path):
            options, self._socket = ["-M"], path
        with contextlib.suppress(OSError):
            os.unlink(f"{self._folder}/log")
        master = self._spawn("exec cat >/dev/null", (), options)
        self._skip_to_mark(master)
        self._master = master

    def _is_held(self) -> bool:
        command = [*self._ssh(), "-O", "check", "--", self.destination]
        try:
            done = subprocess.run(command, capture_output=True, check=False, env=_environment(), timeout=_CONNECT_S)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _reconnect(self, pause: float) -> None:
        self._stopped.wait(pause)
        self._end_all()
        self._connect()

    def _end_all(self) -> None:
        for process in self._processes:
            if not process.finished:
                process.kill()
                with contextlib.suppress(IrepdeployError):
                    process.finish()
        self._processes = []
        self._master = None

    def _spawn(self, script: str, arguments: tuple[str, ...], options: list[str]) -> RemoteProcess:
        line = shlex.join(["sh", "-c", f'echo "$1"; shift; {script}', "sh", self._mark, *arguments])
        command = [*self._ssh(), *self._sharing(), *options, "--", self.destination, line]
        errors = tempfile.TemporaryFile()  # noqa: SIM115
        # In its own session, because on Ctrl-C the other side must clean up first.
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            env=_environment(),
        )
        process = RemoteProcess(child, errors, self._failure)
        self._processes = [*(one for one in self._processes if not one.finished), process]
        if self._stopped.is_set():
            process.kill()
        return process

    def _ssh(self) -> list[str]:
        command = ["ssh", "-T", "-E", f"{self._folder}/log"]
        if self._config is not None:
            command += ["-F", self._config]
        for option in _OPTIONS:
            command += ["-o", option]
        return command

    def _sharing(self) -> list[str]:
        return [] if self._socket is None else ["-S", self._socket, "-o", "ControlMaster=no"]

    def _skip_to_mark(self, process: RemoteProcess) -> None:
        """Skip the output of start-up files; if it ends without the mark, raise an error with the reason."""
        mark = f"{self._mark}\n".encode()
        silent = threading.Event()

        def give_up() -> None:
            silent.set()
            process.kill()

        watch = threading.Timer(_CONNECT_S + _SHELL_S, give_up)
        watch.daemon = True
        watch.start()
        try:
            # Output without a newline precedes the mark on its line.
            if any(line.endswith(mark) for line in iter(process.stdout.readline, b"")):
                return
        finally:
            watch.cancel()
        try:
            code, text = process.finish()
        except IrepdeployError:
            if not silent.is_set():
                raise
            raise MissingError(
                f"its shell did not answer within {_SHELL_S} s",
                where=self.destination,
                hint=f"try: ssh {self.destination} true",
            ) from None
        raise MissingError(
            f"its login shell runs no commands (exit code {code}): {last_line(text) or 'no reason given'}",
            where=self.destination,
            hint=f"try: ssh {self.destination} true",
        )

    def _log(self) -> str:
        with contextlib.suppress(OSError):
            return Path(f"{self._folder}/log").read_text(errors="replace")
        return ""


def _environment() -> dict[str, str]:
    # `ssh_failure` parses ssh's messages, which contain system errors in the user's language.
    return {**os.environ, "LC_ALL": "C"}
