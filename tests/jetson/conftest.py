"""A real OpenSSH server on the loopback address, with its own keys, folder and home."""

from __future__ import annotations

import contextlib
import getpass
import itertools
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


@dataclass
class Server:
    """A running server and what it needs to be reached.

    Args:
        folder: keys, configs, the login's set-up; `home` and `bin` of the far side lie in it.
        config: for ``ssh -F``; it knows the server as ``board``.
    """

    folder: Path
    port: int
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    more: threading.Condition = field(default_factory=threading.Condition)

    destination = "board"

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def cache(self) -> Path:
        return self.home / ".cache" / "irepdeploy-agent"

    def far_program(self, name: str, text: str) -> None:
        """Put a program into the first folder of the far side's PATH."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def set_up(self, line: str) -> None:
        """A shell line that every login runs first."""
        (self.folder / "setup").write_text(f"{line}\n")

    def says(self, text: str) -> bool:
        """Whether its log comes to hold this text."""
        with self.more:
            return self.more.wait_for(lambda: any(text in line for line in self.lines), timeout=20)

    def connections(self) -> list[int]:
        """Process ids of the connections that stand."""
        return [pid for pid in _descendants(self.process.pid) if _is_sshd(pid)]

    def cut(self) -> None:
        """End every connection at once, as a cable that is pulled; the server goes on listening."""
        for pid in self.connections():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """End the server with all its connections."""
        connections = self.connections()
        self.process.kill()
        self.process.wait()
        for pid in connections:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def files(self) -> list[str]:
        """What lies in the far side's home, by relative path."""
        return sorted(str(path.relative_to(self.home)) for path in self.home.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def ssh_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """host, user and other: three key pairs."""
    folder = tmp_path_factory.mktemp("keys")
    if shutil.which("ssh-keygen") is not None:
        for name in ("host", "user", "other"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
            subprocess.run(command, check=True)
    return folder


@pytest.fixture
def server(
    tmp_path: Path,
    ssh_keys: Path,
    requires_debian: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Server]:
    """A server that lets the user of the tests in, with a home of its own."""
    # Where a user's PATH does not lead.
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    sshd = requires_debian("openssh-server", "sshd")
    requires_debian("openssh-client", "ssh")
    folder = tmp_path / "server"
    for name in ("home", "bin"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ssh_keys / "user.pub", folder / "authorized_keys")
    (folder / "setup").touch()
    if os.geteuid() == 0:
        # Debian's service makes it.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    started = _start(sshd, folder, ssh_keys)
    started.far_program("python3", f'exec {shlex.quote(sys.executable)} "$@"')
    _write_client(started, ssh_keys)
    yield started
    started.end()


def _start(sshd: str, folder: Path, keys: Path) -> Server:
    home = folder / "home"
    path = f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    (folder / "login").write_text(
        f"HOME={shlex.quote(str(home))}; PATH={shlex.quote(path)}; export HOME PATH\n"
        'unset XDG_CACHE_HOME; cd "$HOME" || exit\n'
        f". {shlex.quote(str(folder / 'setup'))}\n"
        'exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        # HOME also for the login shell, which reads its start-up files before the login's own script.
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{port}\n"
            f'HostKey "{keys / "host"}"\n'
            f'PidFile "{folder / "sshd.pid"}"\n'
            f'AuthorizedKeysFile "{folder / "authorized_keys"}"\n'
            f'ForceCommand /bin/sh "{folder / "login"}"\n'
            f'SetEnv "HOME={home}"\n'
            "PermitRootLogin yes\nStrictModes no\nUsePAM no\nUseDNS no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n"
        )
        command = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
        started = Server(folder, port, process)
        assert process.stderr is not None
        for line in process.stderr:
            started.lines.append(line.rstrip())
            if "Server listening" in line:
                threading.Thread(target=_drain, args=(started,), daemon=True).start()
                return started
        # Somebody else took the port.
        process.wait()
    raise AssertionError(f"sshd does not start: {started.lines}")


def _drain(server: Server) -> None:
    assert server.process.stderr is not None
    with server.process.stderr as log:
        for line in log:
            with server.more:
                server.lines.append(line.rstrip())
                server.more.notify_all()


def _write_client(server: Server, keys: Path) -> None:
    host_key = (keys / "host.pub").read_text()
    (server.folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {host_key}")
    server.config.write_text(
        f"Host board 127.0.0.1\n  HostName 127.0.0.1\n  Port {server.port}\n  User {getpass.getuser()}\n"
        f'  IdentityFile "{keys / "user"}"\n  IdentitiesOnly yes\n  IdentityAgent none\n'
        f'  UserKnownHostsFile "{server.folder / "known_hosts"}"\n  GlobalKnownHostsFile /dev/null\n'
        "  StrictHostKeyChecking yes\n"
    )


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


@pytest.fixture
def make_onnx() -> Callable[..., bytes]:
    """`make_onnx(shape=, weight=, dtype=, name=, quantized=, depth=)`: a model that scales its input, `depth` times."""
    import numpy as np
    from onnx import helper, numpy_helper

    def make(
        shape: tuple[object, ...] = ("batch", 1, 8, 8),
        weight: float = 2.0,
        dtype: str = "float32",
        name: str = "input",
        quantized: bool = False,
        depth: int = 1,
    ) -> bytes:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        weights = [numpy_helper.from_array(np.full((1, 1), weight, dtype), "weight")]
        steps = ["scaled" if quantized else name, *(f"step{index}" for index in range(1, depth)), "logits"]
        nodes = [helper.make_node("Mul", [before, "weight"], [after]) for before, after in itertools.pairwise(steps)]
        if quantized:
            weights.append(numpy_helper.from_array(np.array(0.05, dtype), "scale"))
            weights.append(numpy_helper.from_array(np.array(0, np.int8), "zero"))
            nodes.insert(0, helper.make_node("QuantizeLinear", [name, "scale", "zero"], ["bytes"]))
            nodes.insert(1, helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["scaled"]))
        graph = helper.make_graph(
            nodes,
            "scale",
            [helper.make_tensor_value_info(name, kind, shape)],
            [helper.make_tensor_value_info("logits", kind, shape)],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return model.SerializeToString()

    return make
