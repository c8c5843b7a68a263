"""The page that follows a run: who may read it, when it is regenerated, and how it ends."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
import webbrowser
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from irepdeploy.bench.report.watch import Watched, server_of
from irepdeploy.cli import main
from irepdeploy.cli.signals import Terminated

ASSETS = Path(__file__).parents[2] / "runs" / "assets"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training in progress."""
    folder = tmp_path / "run"
    shutil.copytree(ASSETS / "training", folder)
    (folder / "result.json").unlink()
    return folder


@pytest.fixture
def server(run: Path) -> Iterator[ThreadingHTTPServer]:
    with server_of(Watched([run], "Mine")) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def ask(
    server: ThreadingHTTPServer, path: str = "/", host: str = "127.0.0.1:1", method: str = "GET"
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=600)
    try:
        connection.request(method, path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def append(run: Path, epoch: int) -> None:
    with (run / "journal.jsonl").open("a") as file:
        file.write(json.dumps({"event": "epoch", "epoch": epoch, "loss": 1.0, "val_accuracy": 0.5}) + "\n")


def test_a_new_epoch_is_a_new_page(server: ThreadingHTTPServer, run: Path) -> None:
    assert server.server_address[0] == "127.0.0.1"
    status, page = ask(server)
    _, state = ask(server, "/state")
    assert status == 200 and f'data-state="{state}"' in page and "<h1>Mine</h1>" in page
    assert "connect-src &#39;self&#39;" in page and "run is stopped, epoch 8 of 8" in page
    assert ask(server, "/state") == (200, state)
    append(run, 8)
    _, later = ask(server, "/state")
    assert later != state
    _, page = ask(server)
    assert f'data-state="{later}"' in page and "run is stopped, epoch 9 of 8" in page
    # A torn line changes the files, and the page reports it.
    with (run / "journal.jsonl").open("a") as file:
        file.write('{"event": "epo')
    torn = ask(server, "/state")[1]
    assert torn != later and "is torn" in ask(server)[1]
    # So does a run that ends.
    shutil.copy(ASSETS / "training" / "result.json", run)
    assert ask(server, "/state")[1] != torn
    assert "run has " in ask(server)[1]


def test_only_this_machine_reads_it_under_its_own_name(server: ThreadingHTTPServer) -> None:
    assert ask(server, host="localhost:8000")[0] == 200
    for host in ("example.invalid", "example.invalid:80", "127.0.0.1.example.invalid:80", ""):
        assert ask(server, host=host)[0] == 421
    for path in ("/../journal.jsonl", "/run/journal.jsonl", "/state?x"):
        assert ask(server, path)[0] == 404
    assert ask(server, method="POST")[0] == 501


def test_a_reader_that_leaves_is_no_error(server: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]) -> None:
    for error in (BrokenPipeError(), ConnectionResetError()):
        try:
            raise error
        except ConnectionError:
            server.handle_error(None, ("127.0.0.1", 1))  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


def test_a_folder_that_is_empty_or_goes_away_ends_no_server(server: ThreadingHTTPServer, run: Path) -> None:
    (run / "journal.jsonl").unlink()
    status, page = ask(server)
    assert status == 200 and "Nothing yet: " in page and "nothing to report" in page
    shutil.rmtree(run)
    assert ask(server)[0] == ask(server, "/state")[0] == 410


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), 0), (Terminated(15), 143)])
def test_it_ends_by_ctrl_c(
    run: Path,
    raised: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)))

    def serve(self: ThreadingHTTPServer) -> None:
        raise raised

    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", serve)
    before = sorted(run.iterdir())
    assert main(["report", str(run), "--watch", "--open"]) == code
    printed = capsys.readouterr()
    assert printed.out == f"serving {opened[0]} until Ctrl-C\n" and opened[0].startswith("http://127.0.0.1:")
    assert f"no browser to open: {opened[0]}" in printed.err
    # It writes nothing, since the folder belongs to the run.
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "x"], "--watch serves a page and writes none"),
        (["--json"], "--watch serves a page and writes none"),
        (["--port", "70000"], "65535"),
    ],
)
def test_what_does_not_go_together(
    options: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run), "--watch", *options]) == 2
    assert said in capsys.readouterr().err
    assert main(["report", str(run), "--port", "0"]) == 2
    assert "only --watch has a port" in capsys.readouterr().err


def test_a_port_in_use_and_a_folder_that_is_none(
    run: Path, server: ThreadingHTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run), "--watch", "--port", str(server.server_port)]) == 4
    assert f"port {server.server_port}: cannot serve the page" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none"), "--watch"]) == 2


def test_open_shows_the_file(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: not opened.append(address))
    assert main(["report", str(ASSETS / "search_compare"), "--out", str(tmp_path / "a b.html"), "--open"]) == 0
    assert opened == [(tmp_path / "a b.html").as_uri()]
