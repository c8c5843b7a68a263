"""A real OpenSSH server on the loopback address, with its own keys, folder and home."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from irepdeploy.cli import main


@dataclass
class Server:
    """A server and its client settings, shared by all tests; each test starts with a fresh home and settings.

    Args:
        folder: Folder with keys, configs and login set-up; `home` and `bin` of the remote side are in it.
        config: File for ``ssh -F``, in which the server is called ``board``.
    """

    folder: Path
    keys: Path
    sshd: str
    port: int = 0
    process: subprocess.Popen[str] | None = None
    tests: int = 0
    lines: list[str] = field(default_factory=list)
    more: threading.Condition = field(default_factory=threading.Condition)

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def home(self) -> Path:
        # Processes left by an earlier test may still write to their own home.
        return self.folder / f"home{self.tests}"

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "irepdeploy-agent"

    def far_program(self, name: str, text: str) -> None:
        """Put a program into the first folder of the far side's PATH."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def set_up(self, line: str) -> None:
        """Let every login run a shell line first."""
        (self.folder / "setup").write_text(f"{line}\n")

    def says(self, text: str) -> bool:
        """Wait until its log holds a text."""
        with self.more:
            return self.more.wait_for(lambda: any(text in line for line in self.lines), timeout=120)

    def forget(self) -> None:
        """Empty its log, after everything that earlier connections log has come."""
        with socket.create_connection(("127.0.0.1", self.port)) as probe:
            probe.sendall(b"nobody\r\n")
            assert self.says(f"port {probe.getsockname()[1]}: invalid")
            while probe.recv(1024):
                pass
        self.lines.clear()

    def connections(self) -> list[int]:
        """Return the process ids of the open connections."""
        return [pid for pid in _descendants(self.process.pid) if _is_sshd(pid)] if self.process else []

    def cut(self) -> None:
        """Cut every connection at once, like a pulled cable; the server keeps listening."""
        for pid in self.connections():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """End the server with all its connections."""
        connections = self.connections()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        for pid in connections:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def files(self) -> list[str]:
        """Return the relative paths of all files in the far side's home."""
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*") if path.is_file())

    def reset(self) -> None:
        """Set all files back, and start the server if it does not run."""
        self.tests += 1
        self.home.mkdir()
        link = self.folder / "home"
        link.unlink(missing_ok=True)
        link.symlink_to(self.home)
        shutil.rmtree(self.folder / "bin", ignore_errors=True)
        (self.folder / "bin").mkdir()
        shutil.copy(self.keys / "user.pub", self.folder / "authorized_keys")
        self.set_up("")
        self.far_program("python3", f'exec {shlex.quote(sys.executable)} "$@"')
        path = f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        (self.folder / "login").write_text(
            f"HOME={shlex.quote(str(self.home))}; PATH={shlex.quote(path)}; export HOME PATH\n"
            'unset XDG_CACHE_HOME; cd "$HOME" || exit\n'
            f". {shlex.quote(str(self.folder / 'setup'))}\n"
            'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        if self.process is None:
            self._start()
        host_key = (self.keys / "host.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        self.config.write_text(
            f"Host board 127.0.0.1\n  HostName 127.0.0.1\n  Port {self.port}\n  User {getpass.getuser()}\n"
            f'  IdentityFile "{self.keys / "user"}"\n  IdentitiesOnly yes\n  IdentityAgent none\n'
            f'  UserKnownHostsFile "{self.folder / "known_hosts"}"\n  GlobalKnownHostsFile /dev/null\n'
            "  StrictHostKeyChecking yes\n"
        )

    def _start(self) -> None:
        # OpenSSH from 9.8 on would refuse connections for a while after those that a test cut.
        penalties = "PerSourcePenalties no\n"
        for _ in range(5):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            # HOME also for the login shell, which reads its start-up files before the login's own script.
            (self.folder / "sshd_config").write_text(
                f"ListenAddress 127.0.0.1:{self.port}\n"
                f'HostKey "{self.keys / "host"}"\n'
                f'PidFile "{self.folder / "sshd.pid"}"\n'
                f'AuthorizedKeysFile "{self.folder / "authorized_keys"}"\n'
                f'ForceCommand /bin/sh "{self.folder / "login"}"\n'
                f'SetEnv "HOME={self.folder / "home"}"\n'
                "PermitRootLogin yes\nStrictModes no\nUsePAM no\nUseDNS no\n"
                f"{penalties}"
                "PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n"
            )
            command = [self.sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
            assert process.stderr is not None
            for line in process.stderr:
                self.lines.append(line.rstrip())
                if "Server listening" in line:
                    self.process = process
                    threading.Thread(target=self._drain, args=(process,), daemon=True).start()
                    return
            # Another process took the port, or this sshd is older.
            process.wait()
            process.stderr.close()
            if any("PerSourcePenalties" in line for line in self.lines):
                penalties = ""
        raise AssertionError(f"sshd does not start: {self.lines}")

    def _drain(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as log:
            for line in log:
                with self.more:
                    self.lines.append(line.rstrip())
                    self.more.notify_all()


@pytest.fixture(scope="session")
def ssh_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """host, user and other: three key pairs."""
    folder = tmp_path_factory.mktemp("keys")
    if shutil.which("ssh-keygen") is not None:
        for name in ("host", "user", "other"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
            subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="session")
def _servers(ssh_keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        server.end()


@pytest.fixture
def server(
    _servers: list[Server],
    ssh_keys: Path,
    tmp_path_factory: pytest.TempPathFactory,
    requires_debian: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Server]:
    """A server that lets the user of the tests in, with a home of its own."""
    # A user's PATH does not have sshd.
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    sshd = requires_debian("openssh-server", "sshd")
    requires_debian("openssh-client", "ssh")
    if not _servers:
        if os.geteuid() == 0:
            # Debian's service creates it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        _servers.append(Server(tmp_path_factory.mktemp("server"), ssh_keys, sshd))
    server = _servers[0]
    server.reset()
    yield server
    server.cut()


@pytest.fixture
def jetson(server: Server, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, list[str]]]:
    """`jetson(verb, *words)`: exit code, stdout, lines of stderr."""

    def run(verb: str, *words: str) -> tuple[int, str, list[str]]:
        code = main(["jetson", verb, "--ssh-config", str(server.config), *words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err.splitlines()

    return run


def _is_sshd(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sshd")
    except OSError:
        return False


def _descendants(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found
