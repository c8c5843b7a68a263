"""The client side of the conversation with an agent, over a real ssh server and with an agent made for these tests."""

from __future__ import annotations

import hashlib
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import irepdeploy.jetson.ssh as ssh
from irepdeploy.errors import CheckFailed, InputError, IrepdeployError, MissingError, ModelError, RunError
from irepdeploy.jetson.agent_archive import AgentArchive
from irepdeploy.jetson.agent_failure import RemoteBug, agent_error
from irepdeploy.jetson.boards import ask_boards
from irepdeploy.jetson.hosts import Host
from irepdeploy.jetson.install import install, typed
from irepdeploy.jetson.remote_agent import RemoteAgent
from irepdeploy.jetson.ssh import Remote
from irepdeploy.jetson.ssh_failure import LostConnection

# Speaks the protocol; the request names further actions.
AGENT = r"""
import hashlib, json, os, signal, sys
def say(kind, /, **fields):
    print(json.dumps({"event": kind, **fields}), flush=True)
def tell(text):
    with open(os.path.expanduser("~/told"), "w") as fifo:
        fifo.write(text)
print("a library's banner")
say("hello", protocol=1)
line = sys.stdin.buffer.readline()
request = json.loads(line or b"{}")
verb = sys.argv[1]
todo = request.get("do", verb)
store = os.path.expanduser("~/stored")
os.makedirs(store, exist_ok=True)
if todo == "have":
    say("result", verb=verb, value={"missing": [h for h in request["sha256"] if not os.path.exists(f"{store}/{h}")]})
elif todo == "put":
    content = sys.stdin.buffer.read()
    if len(content) != request["size_bytes"]:
        say("error", code=4, kind="RunError", what="short")
        sys.exit(4)
    if not os.path.exists(f"{store}/tried") and os.path.exists(f"{store}/cut"):
        open(f"{store}/tried", "w").close()
        os.kill(int(open(f"{store}/cut").read()), signal.SIGTERM)
    with open(f"{store}/{request['sha256']}", "wb") as file:
        file.write(content)
    say("result", verb=verb, value={})
elif todo == "get":
    content = b"engine\n" * 1000
    digest = hashlib.sha256(content).hexdigest()
    say("file", name=request["name"], size_bytes=len(content), sha256=digest if request["job"] == "good" else "0" * 64)
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
    say("result", verb=verb, value={})
elif todo == "bench":
    say("progress", stage="measure", model="m", share=0.5)
    last = ""
    for last in sys.stdin:
        if "stop" in last:
            say("log", level="info", text="clocks put back")
            tell("stop")
            say("error", code=130, kind="", what="stopped")
            sys.exit(130)
    tell("end of stdin")
    sys.exit(4)
elif todo == "once":
    say("log", level="info", text="hi\x1b[2J")
    say("unknown", future=True)
    say("result", verb=verb, value={"answer": 42, "lifeline": request.get("lifeline")})
elif todo == "no number":
    say("result", verb=verb, value={"error": float("nan")})
elif todo == "beats":
    for count, line in enumerate(sys.stdin, start=1):
        if count == 3:
            break
    say("result", verb=verb, value={"beats": count, "line": line})
elif todo == "bad file":
    say("file", name="x", size_bytes=request["size"], sha256="0" * 64)
elif todo == "crash":
    raise ValueError("it crashed\nreally")
elif todo == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif todo == "full":
    sys.exit("OSError: [Errno 28] No space left on device")
elif todo == "error":
    say("error", **request["error"])
    sys.exit(request["error"]["code"])
"""


ARCHIVE = AgentArchive(AGENT.encode())
BOARD = [Host("board")]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_PAUSES_S", (0.0, 0.0))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection breaks after two seconds of silence."""
    quick = {"ServerAliveInterval=5": "ServerAliveInterval=1", "ServerAliveCountMax=6": "ServerAliveCountMax=1"}
    monkeypatch.setattr(ssh, "_OPTIONS", tuple(quick.get(option, option) for option in ssh._OPTIONS))


@pytest.fixture
def events() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def agent(server: Any, events: list[dict[str, Any]]) -> Iterator[RemoteAgent]:
    with Remote("board", config=server.config) as remote:
        agent = RemoteAgent(remote, ARCHIVE, events.append)
        agent.install()
        yield agent


@pytest.fixture
def told(server: Any) -> Iterator[Callable[[], str]]:
    """Return a function that waits for what the agent writes to a pipe at its end."""
    path = server.home / "told"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read() -> str:
        ready, _, _ = select.select([descriptor], [], [], 600)
        assert ready, "the agent told nothing"
        return os.read(descriptor, 100).decode()

    yield read
    os.close(descriptor)


class Display:
    """Progress as a list; `seen` is set at the first."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.seen = threading.Event()

    def task(self, title: str, total: int) -> Display:
        self.titles.append(title)
        self.seen.set()
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


def test_the_agent_is_brought_once(server: Any, agent: RemoteAgent) -> None:
    path = server.cache / "agent" / ARCHIVE.name
    assert path.read_bytes() == ARCHIVE.content
    assert path.parent.stat().st_mode & 0o077 == 0
    before = path.stat()
    agent.install()
    assert path.stat().st_ino == before.st_ino
    path.write_text("damaged")
    agent.install()
    assert path.read_bytes() == ARCHIVE.content
    assert len(list(path.parent.iterdir())) == 1


def test_an_agent_that_came_cut_short_is_not_kept(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AgentArchive, "sha256", "0" * 64)
    with (
        Remote("board", config=server.config) as remote,
        pytest.raises(RunError, match="board: the copy was cut short"),
    ):
        install(remote, ARCHIVE)
    assert server.files() == []


def test_a_connection_that_breaks_while_the_agent_is_brought_is_sought_again(server: Any) -> None:
    python = (server.folder / "bin" / "python3").read_text().splitlines()[1]
    server.far_program(
        "python3",
        f'[ -e "$HOME/cut" ] && {{ kill $(cat "$HOME/cut"); rm "$HOME/cut"; exec cat > /dev/null; }}\n{python}',
    )
    with Remote("board", config=server.config) as remote:
        (server.home / "cut").write_text(str(max(server.connections())))
        install(remote, ARCHIVE)
    assert [Path(name).name for name in server.files()] == [ARCHIVE.name]


def test_requests_are_answered(agent: RemoteAgent, events: list[dict[str, Any]], monkeypatch: Any) -> None:
    assert agent.ask("once") == {"answer": 42, "lifeline": None}
    # Lines of libraries are skipped.
    assert [event["event"] for event in events] == ["hello", "log", "unknown"]
    assert agent.bench({"do": "once"})["lifeline"] == {"heartbeat_s": 60}
    assert agent.ask("no number") == {"error": "NaN"}
    monkeypatch.setattr("irepdeploy.jetson.remote_agent._BEAT_S", 0.01)
    assert agent.bench({"do": "beats"}) == {"beats": 3, "line": "\n"}


def test_failures_of_the_agent_are_raised(agent: RemoteAgent) -> None:
    with pytest.raises(RunError, match=r"board: the agent ended without an answer \(exit code 1\): really") as caught:
        agent.ask("crash")
    assert not isinstance(caught.value, LostConnection)
    with pytest.raises(RunError, match="board: its disk is full"):
        agent.ask("full")
    with pytest.raises(MissingError, match="board: no TensorRT"):
        agent.ask("x", {"do": "error", "error": {"code": 3, "kind": "MissingError", "what": "no TensorRT"}})
    with pytest.raises(RunError, match="interrupted"):
        agent.ask("x", {"do": "error", "error": {"code": 130, "kind": "", "what": "stopped"}})


def test_files_are_sent_where_they_lack(server: Any, agent: RemoteAgent) -> None:
    shares: list[float] = []
    files = [b"a" * 600_000, b"b", b"b"]
    digests = agent.send(files, shares.append)
    assert digests == [hashlib.sha256(content).hexdigest() for content in files]
    stored = server.home / "stored"
    assert {path.name: path.read_bytes() for path in stored.iterdir()} == dict(zip(digests, files, strict=True))
    assert shares == sorted(shares) and shares[-1] == 1.0
    (stored / digests[1]).unlink()
    shares.clear()
    agent.send(files, shares.append)
    assert shares == [1.0]


def test_a_copy_that_breaks_is_repeated(server: Any, agent: RemoteAgent) -> None:
    agent.ask("have", {"sha256": []})
    (server.home / "stored" / "cut").write_text(str(max(server.connections())))
    digest = agent.send([b"content"])[0]
    assert (server.home / "stored" / "tried").exists()
    assert (server.home / "stored" / digest).read_bytes() == b"content"


def test_a_file_is_fetched_and_compared_with_its_digest(agent: RemoteAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agent.fetch("good", "model0.engine") == b"engine\n" * 1000
    for size in (-1, "x", 10**6):
        with pytest.raises(RunError, match=r"board: .*truncated"):
            agent.bench({"do": "bad file", "size": size})
    monkeypatch.setattr(ssh, "_PAUSES_S", ())
    with pytest.raises(RunError, match=r"board: .*truncated"):
        agent.fetch("bad", "model0.engine")


def test_a_broken_connection_ends_the_agent_and_is_not_repeated(
    server: Any, agent: RemoteAgent, events: list[dict[str, Any]], told: Callable[[], str]
) -> None:
    def cut(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "progress":
            server.cut()

    agent.on_event = cut
    with pytest.raises(LostConnection, match=r"board: the connection broke.*measure again"):
        agent.bench({})
    assert told() == "end of stdin"
    assert [event["event"] for event in events] == ["hello", "progress"]


def test_stop_lets_the_agent_end_in_order(
    agent: RemoteAgent, events: list[dict[str, Any]], told: Callable[[], str]
) -> None:
    agent.on_event = lambda event: agent.stop() if event["event"] == "progress" else events.append(event)
    with pytest.raises(KeyboardInterrupt):
        agent.bench({})
    assert told() == "stop"
    assert events[-1]["text"] == "clocks put back"


def test_a_board_that_falls_silent_is_a_broken_connection(server: Any, impatient: None, agent: RemoteAgent) -> None:
    def freeze(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            for pid in server.connections():
                os.kill(pid, signal.SIGSTOP)

    agent.on_event = freeze
    with pytest.raises(LostConnection, match="measure again"):
        agent.bench({})


def test_stop_before_the_measurement_ends_the_connection(agent: RemoteAgent) -> None:
    agent.stop()
    with pytest.raises((IrepdeployError, KeyboardInterrupt)):
        agent.bench({})


def test_ctrl_c_stops_every_board(
    server: Any, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import irepdeploy.jetson.boards as boards

    display = Display()
    real = boards.wait
    presses = iter([True])

    def wait(futures: Any, **how: Any) -> Any:
        if next(presses, False):
            assert display.seen.wait(600)
            raise KeyboardInterrupt
        return real(futures, **how)

    monkeypatch.setattr(boards, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        ask_boards(
            [Host("board")], lambda agent: agent.bench({}), archive=ARCHIVE, display=display, config=server.config
        )
    assert told() == "stop"
    assert "board: clocks put back" in capsys.readouterr().err
    assert display.titles == ["board measure m"]


def test_a_second_ctrl_c_waits_for_nothing(
    server: Any, told: Callable[[], str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import irepdeploy.jetson.boards as boards

    display = Display()
    presses = iter([True, True])

    def wait(futures: Any, **how: Any) -> Any:
        assert next(presses, False)
        assert display.seen.wait(600)
        raise KeyboardInterrupt

    monkeypatch.setattr(boards, "wait", wait)
    # Ignores the first one.
    monkeypatch.setattr(RemoteAgent, "stop", lambda self: None)
    with pytest.raises(KeyboardInterrupt):
        ask_boards(
            [Host("board")], lambda agent: agent.bench({}), archive=ARCHIVE, display=display, config=server.config
        )
    assert told() == "end of stdin"
    assert "not waiting" in capsys.readouterr().err


def test_a_board_that_fails_stops_no_other(server: Any) -> None:
    with server.config.open("a") as config:
        config.write("Host gone\n  HostName 127.0.0.1\n  Port 1\n")
    seen = []
    answers = ask_boards(
        [Host("gone"), Host("board")],
        lambda agent: agent.ask("once")["answer"],
        archive=ARCHIVE,
        display=Display(),
        config=server.config,
        on_answer=lambda answer: seen.append(answer.host),
    )
    assert [(answer.host, answer.value) for answer in answers] == [("gone", None), ("board", 42)]
    assert isinstance(answers[0].error, MissingError) and answers[1].error is None
    assert sorted(seen) == ["board", "gone"]


def test_a_bug_with_one_board_stops_no_other(server: Any) -> None:
    seen = []

    def work(agent: RemoteAgent) -> int:
        if agent.host == "127.0.0.1":
            raise ZeroDivisionError
        return int(agent.ask("once")["answer"])

    with pytest.raises(ZeroDivisionError):
        ask_boards(
            [Host("127.0.0.1"), Host("board")],
            work,
            archive=ARCHIVE,
            display=Display(),
            config=server.config,
            on_answer=lambda answer: seen.append((answer.host, answer.value)),
        )
    assert seen == [("board", 42)]


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_an_agent_that_is_killed_is_reported(server: Any, agent: RemoteAgent, shell: str) -> None:
    # bash replaces itself with the last command of a line, so no process is left to report the kill.
    (server.folder / "bin" / "sh").symlink_to(shell)
    login = server.folder / "login"
    login.write_text(login.read_text().replace("exec /bin/sh", f"exec {shell}"))
    with pytest.raises(RunError, match="board: the agent was killed by signal 9"):
        agent.bench({"do": "killed"})


@pytest.mark.parametrize(
    ("kind", "code", "made"),
    [("MissingError", 3, MissingError), ("ModelError", 2, ModelError), ("CheckFailed", 1, CheckFailed),
     ("RunError", 4, RunError), ("InputError", 2, InputError)],
)  # fmt: skip
def test_an_error_comes_back_as_it_was_raised(kind: str, code: int, made: type[IrepdeployError]) -> None:
    event = {"code": code, "kind": kind, "what": "no\nTensorRT\x07", "where": "model0", "hint": "install it"}
    error = agent_error(event, "board")
    assert type(error) is made and isinstance(error, IrepdeployError)
    assert error.line == r"board: model0: no TensorRT\x07 (install it)"


@pytest.mark.parametrize("kind", ["", "SystemExit", "__all__", "annotations", "ClassVar", "IrepdeployError"])
def test_a_bug_over_there_brings_its_traceback(kind: str) -> None:
    error = agent_error(
        {"code": 70, "kind": kind, "what": "KeyError: 'x'", "traceback": "File agent.py\nKeyError"}, "b"
    )
    assert isinstance(error, RemoteBug)
    assert str(error) == "on b: KeyError: 'x'"
    assert error.__notes__ == ["from the board:\nFile agent.py\nKeyError"]


def installing(server: Any, **python: str) -> IrepdeployError:
    with Remote("board", config=server.config) as remote, pytest.raises(IrepdeployError) as caught:
        install(remote, ARCHIVE, **python)
    return caught.value


def test_a_board_without_python_is_reported(server: Any) -> None:
    (server.folder / "bin" / "python3").unlink()
    server.set_up(f"PATH={server.folder}/bin")
    (server.folder / "bin" / "sh").symlink_to("/bin/sh")
    error = installing(server)
    assert isinstance(error, MissingError)
    assert error.line == "board: python3 is not installed (sudo apt-get install python3 python3-numpy)"


def test_another_python_runs_the_agent(server: Any, events: list[dict[str, Any]]) -> None:
    """A Python in the board's home, in a folder whose name no shell may split."""
    path = server.home / "my $(touch x) venv" / "python"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\necho "$1" >> ~/ran\nexec {shlex.quote(sys.executable)} "$@"\n')
    path.chmod(0o755)
    assert installing(server, python="~/none").line == (
        "board: there is no ~/none that can be run (--python names an interpreter on the board)"
    )
    with Remote("board", config=server.config) as remote:
        agent = RemoteAgent(remote, ARCHIVE, events.append, python="~/my $(touch x) venv/python")
        agent.install()
        assert agent.ask("have", {"sha256": []})["missing"] == []
    # To look for the agent, to store it, and to run it.
    assert (server.home / "ran").read_text().split() == ["-c", "-c", "-u"]
    assert not (server.home / "x").exists()


def test_a_python_that_does_not_run_is_reported(server: Any) -> None:
    server.far_program("python3", "exec /no/such/interpreter")
    error = installing(server)
    assert isinstance(error, MissingError) and "python3 does not run" in error.what


@pytest.mark.parametrize(
    ("python", "run"),
    [
        ("python3.8", "python3.8"),
        ("~/venv/bin/python", "/home/board/venv/bin/python"),
        ("~/my $(touch x) venv/python", "/home/board/my $(touch x) venv/python"),
        ("/opt/it's/python", "/opt/it's/python"),
    ],
)
def test_the_line_to_try_names_the_same_python(python: str, run: str) -> None:
    *_, remote = shlex.split(f"ssh board {typed(python)}")
    command = ["sh", "-c", f"printf %s {remote}"]
    found = subprocess.run(command, env={"HOME": "/home/board"}, capture_output=True, text=True, check=True).stdout
    assert found == run


def test_an_old_python_is_reported(server: Any) -> None:
    real = (server.folder / "bin" / "python3").read_text().splitlines()[1].split()[1]
    old = 'import sys; sys.version_info = (3, 6, 9); c = sys.argv[1]; sys.argv = ["-c", *sys.argv[2:]]; exec(c)'
    server.far_program("python3", f"shift; exec {real} -c '{old}' \"$@\"")
    error = installing(server)
    assert isinstance(error, MissingError)
    assert error.line == "board: the agent needs Python 3.8 or later, python3 is 3.6 (JetPack 5 has 3.8)"


def test_a_disk_too_full_for_the_agent_is_reported_and_left_clean(server: Any) -> None:
    server.set_up("ulimit -f 1")
    error = installing(server)
    assert isinstance(error, RunError) and error.what == "its disk is full"
    assert server.files() == []


def test_a_home_that_cannot_be_written_is_reported(server: Any) -> None:
    (server.home / ".cache").write_text("a file")
    error = installing(server)
    assert isinstance(error, RunError) and "cannot write" in error.what
