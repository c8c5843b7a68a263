"""Commands on another machine, over a real OpenSSH server."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import irepdeploy.jetson.ssh as ssh
from irepdeploy.errors import InputError, IrepdeployError, MissingError, RunError, one_line
from irepdeploy.jetson.hosts import check_destination
from irepdeploy.jetson.ssh import Remote
from irepdeploy.jetson.ssh_failure import LostConnection, disk_full, last_line, not_connected

HOSTILE = [
    "a b",
    "it's",
    '"q"',
    "$(touch x)",
    "`touch x`",
    "two\nlines",
    "-rf",
    "*",
    "back\\slash",
    "ä",
    "; touch x",
    "",
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_PAUSES_S", (0.0, 0.0))


@pytest.fixture
def remote(server: Any) -> Iterator[Remote]:
    with Remote("board", config=server.config) as remote:
        yield remote


def run(remote: Remote, script: str, *arguments: str, content: bytes = b"") -> tuple[int, bytes, str]:
    """Run a script to its end: exit code, stdout, tail of stderr."""
    process = remote.start(script, *arguments)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(content)
    process.close_stdin()
    output = process.stdout.read()
    code, text = process.finish()
    return code, output, text


def cannot_connect(server: Any, destination: str = "board") -> IrepdeployError:
    with pytest.raises(IrepdeployError) as caught, Remote(destination, config=server.config):
        pass
    assert caught.value.where is not None and destination in caught.value.where
    return caught.value


def test_commands_give_output_and_exit_code_and_arguments_arrive_as_they_are(remote: Remote, server: Any) -> None:
    assert run(remote, 'printf %s "$HOME"') == (0, str(server.home).encode(), "")
    assert run(remote, "cat; echo broken >&2; exit 3", content=b"\0binary\n") == (3, b"\0binary\n", "broken\n")
    expected = "".join(f"[{argument}]" for argument in HOSTILE).encode()
    assert run(remote, 'printf "[%s]" "$@"', *HOSTILE) == (0, expected, "")
    assert server.files() == []


def test_one_connection_carries_all_commands_and_leaves_nothing(server: Any, tmp_path: Path) -> None:
    server.forget()
    with Remote("board", config=server.config) as remote:
        folder = Path(remote._folder or "")
        assert folder.is_dir() and folder.stat().st_mode & 0o077 == 0
        for _ in range(2):
            run(remote, "true")
    assert not folder.exists()
    assert sum("Accepted publickey" in line for line in server.lines) == 1


def test_a_long_path_for_the_socket_only_costs_more_logins(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(ssh.tempfile, "tempdir", str(deep))
    with Remote("board", config=server.config) as remote:
        assert run(remote, "echo yes")[:2] == (0, b"yes\n")
        assert remote._socket is None
    assert list(deep.iterdir()) == []


def test_the_users_own_open_connection_is_used(server: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with server.config.open("a") as config:
            config.write(f"  ControlPath {folder}/own\n")
        command = ["ssh", "-F", str(server.config), "-M", "board", "echo up; cat"]
        held = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert held.stdin is not None and held.stdout is not None
        assert held.stdout.readline() == b"up\n"
        # A new login would be refused now.
        (server.folder / "authorized_keys").write_text("")
        with Remote("board", config=server.config) as remote:
            assert run(remote, "echo yes")[:2] == (0, b"yes\n")
        held.communicate()


def test_what_the_login_prints_on_its_own_is_left_out(server: Any) -> None:
    (server.home / ".bashrc").write_text("echo Welcome; printf 'no end'\n")
    server.set_up("echo from the login; printf 'no end either'; echo to stderr >&2")
    with Remote("board", config=server.config) as remote:
        assert run(remote, "echo yes")[:2] == (0, b"yes\n")


def test_other_options_of_the_users_config_do_no_harm(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with server.config.open("a") as config:
        config.write(f"  ControlMaster auto\n  ControlPath {server.folder}/%C\n  ControlPersist yes\n")
        config.write("  RemoteCommand date\n  RequestTTY yes\n  LocalForward 127.0.0.1:1 127.0.0.1:2\n")
        config.write("  PermitLocalCommand yes\n  LocalCommand touch ran\n  LogLevel QUIET\n")
    server.forget()
    with Remote("board", config=server.config) as remote:
        assert run(remote, "cat", content=b"x") == (0, b"x", "")
    assert not Path("ran").exists()
    # Nothing keeps running in the background.
    assert server.says("Closing connection")
    assert sum("Accepted publickey" in line for line in server.lines) == 1


def test_an_unknown_host_key_is_refused(server: Any) -> None:
    (server.folder / "known_hosts").write_text("")
    error = cannot_connect(server)
    assert isinstance(error, MissingError)
    assert error.what == "its host key is unknown here"
    assert error.hint == "to check and accept it, once: ssh board"


def test_a_changed_host_key_is_refused(server: Any, ssh_keys: Path) -> None:
    other = (ssh_keys / "other.pub").read_text()
    (server.folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {other}")
    server.forget()
    error = cannot_connect(server)
    assert isinstance(error, MissingError)
    assert "its host key has changed" in error.what
    assert not any("Accepted" in line for line in server.lines)


def test_a_refused_login_is_reported(server: Any) -> None:
    (server.folder / "authorized_keys").write_text("")
    error = cannot_connect(server)
    assert isinstance(error, MissingError)
    assert (error.what, error.hint) == (
        "it refuses the login",
        "it needs a key without a passphrase prompt: ssh-copy-id board",
    )


def test_a_closed_port_is_reported(server: Any) -> None:
    with socket.socket() as taken:
        # Bound but not listening.
        taken.bind(("127.0.0.1", 0))
        with server.config.open("a") as config:
            config.write(f"Host closed\n  HostName 127.0.0.1\n  Port {taken.getsockname()[1]}\n")
        error = cannot_connect(server, "closed")
    assert isinstance(error, MissingError)
    assert "not reachable" in error.what and "Connection refused" in error.what


def test_a_server_that_hangs_up_is_reported(server: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        import threading

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with server.config.open("a") as config:
            config.write(f"Host rude\n  HostName 127.0.0.1\n  Port {listening.getsockname()[1]}\n")
        error = cannot_connect(server, "rude")
        thread.join()
    assert isinstance(error, MissingError)
    assert "not reachable" in error.what


def test_a_login_without_a_shell_is_reported(server: Any) -> None:
    server.set_up("echo This account is not available. >&2; exit 1")
    error = cannot_connect(server)
    assert isinstance(error, MissingError)
    assert "its login shell runs no commands (exit code 1): This account is not available." in error.what


def test_a_login_that_never_answers_is_given_up(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_CONNECT_S", 0)
    monkeypatch.setattr(ssh, "_SHELL_S", 1)
    server.set_up("exec cat")
    error = cannot_connect(server)
    assert isinstance(error, MissingError)
    assert error.what == "its shell did not answer within 1 s"


def test_an_invalid_config_is_reported(server: Any, tmp_path: Path) -> None:
    server.config.write_text("Host board\n  NoSuchOption yes\n")
    error = cannot_connect(server)
    assert isinstance(error, InputError)
    assert "NoSuchOption" in error.what.lower() or "nosuchoption" in error.what
    with pytest.raises(InputError, match="no such file"), Remote("board", config=tmp_path / "none"):
        pass


def test_without_ssh_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="openssh-client"), Remote("board"):
        pass


def broken(remote: Remote, server: Any) -> None:
    """A command whose connection breaks while it runs."""
    process = remote.start("exec cat")
    server.cut()
    assert process.stdout.read() == b""
    process.finish()


def test_a_connection_that_breaks_is_found_and_what_may_be_repeated_is(remote: Remote, server: Any) -> None:
    with pytest.raises(LostConnection, match="board: the connection broke"):
        broken(remote, server)
    calls = []

    def once_broken() -> str:
        calls.append(run(remote, "echo yes")[1])
        if len(calls) == 1:
            broken(remote, server)
        return "done"

    assert remote.retried(once_broken) == "done"
    assert calls == [b"yes\n", b"yes\n"]


def test_a_connection_that_stays_broken_is_given_up(remote: Remote, server: Any) -> None:
    tries = []

    def always() -> None:
        tries.append(1)
        broken(remote, server)

    with pytest.raises(LostConnection, match="board: the connection broke"):
        remote.retried(always)
    assert len(tries) == 3


def test_a_server_that_is_gone_for_good_is_given_up(remote: Remote, server: Any) -> None:
    def gone() -> None:
        server.end()
        run(remote, "true")

    with pytest.raises(LostConnection, match="Connection refused"):
        remote.retried(gone)


@pytest.mark.parametrize("error", [MissingError("no python3"), RunError("a script failed")])
def test_a_failure_that_is_not_the_connections_is_not_repeated(error: IrepdeployError) -> None:
    tries = []

    def fails() -> None:
        tries.append(1)
        raise error

    with pytest.raises(type(error), match=error.what):
        Remote("board").retried(fails)
    assert len(tries) == 1


def test_stop_ends_what_runs_and_starts_nothing_more(remote: Remote) -> None:
    process = remote.start("exec cat")
    remote.stop()
    assert process.stdout.read() == b""
    with pytest.raises(IrepdeployError):
        process.finish()
    with pytest.raises(IrepdeployError):
        run(remote, "true")


@pytest.mark.parametrize(
    "text",
    ["board", "me@board", "me@10.0.0.2", "ssh://me@board:2222", "me@::1", "ssh://me@[fe80::1%eth0]:22", "b-1.local"],
)
def test_names_of_machines_are_taken(text: str) -> None:
    assert check_destination(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=touch x", "me@-oProxyCommand=x", "-l@host", "a b", "a\nb", "a;touch x", "$(touch x)", "`x`",
     "me@", "@board", "a@b@c", "board:2222", "abc:22", "me@[::1]", "a|b", "a'b", 'a"b', "ssh://", "ssh://-x", "hä",
     "a/b", "a\\b", "a&b", "a\tb", "a\0b"],
)  # fmt: skip
def test_not_a_machine_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        check_destination(text)


def test_what_ssh_says_is_kept_to_one_line() -> None:
    assert one_line("a\x1b[31mred\x07\n\tb") == "a\\x1b[31mred\\x07 b"
    assert len(one_line("x" * 1000)) == 300
    assert last_line("first\n\n  \r\n") == "first"
    assert last_line("") == ""
    assert not_connected("h", "").line == "h: ssh cannot connect: it gave no reason (try: ssh h)"
    assert disk_full("tee: x: No space left on device") and not disk_full("space")
