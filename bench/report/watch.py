"""A page that follows a run, served on this machine only and regenerated when the run's files change."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from irepdeploy.errors import InputError, IrepdeployError, RunError
from irepdeploy.files import canonical_json, sha256
from irepdeploy.folders import LOCK

from .content import Content, content_of
from .gather import Gathered, source_files
from .page import page
from .verdict import Verdict

__all__ = ["Watched", "server_of"]

_HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost")
_TYPES = {"/": "text/html; charset=utf-8", "/state": "text/plain; charset=utf-8"}


class Watched:
    """The page of some folders and files, cached until one of them changes."""

    def __init__(self, places: Sequence[str | os.PathLike[str]], title: str) -> None:
        self._places, self._title = places, title
        self._lock = threading.Lock()
        self._kept = ("", "")

    @property
    def state(self) -> str:
        """Identifier of the current state of all files: their paths, sizes and times."""
        # Include locks and results, although a report does not show them: they tell whether a run has ended.
        files = [*source_files(self._places, Gathered())]
        folders = dict.fromkeys(path.parent for path in files)
        files += [folder / name for folder in folders for name in ("result.json", LOCK)]
        return sha256(canonical_json([[str(path), *_stamp(path)] for path in files]))[:16]

    def page(self) -> str:
        """Return the page of the current state; if there is nothing to report yet, the page says so."""
        with self._lock:
            state = self.state
            if self._kept[0] != state:
                self._kept = state, page(self._content(), Path(self._places[0]) / "page.html", state=state)
            return self._kept[1]

    def _content(self) -> Content:
        try:
            # Pictures take seconds, and a run in progress keeps changing them.
            return content_of(self._places, self._title, pictures=False)
        except IrepdeployError as error:
            return Content(self._title, Verdict(f"Nothing yet: {error.what}.", (), None))


def server_of(watched: Watched, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of the page that is reachable from this machine only; port 0 takes a free port.

    Raises:
        RunError: The port is in use.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = (self.headers.get("Host") or "").rpartition(":")[0]
            if name not in _NAMES:
                # A page of another site with a host name for this address must not read the report.
                self.send_error(421, "ask for 127.0.0.1")
                return
            if self.path not in _TYPES:
                self.send_error(404)
                return
            try:
                text = watched.page() if self.path == "/" else watched.state
            except InputError as error:
                # The folder no longer exists.
                self.send_error(410, error.what)
                return
            content = text.encode("utf-8", "replace")
            self.send_response(200)
            self.send_header("Content-Type", _TYPES[self.path])
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing, since a page polls every two seconds."""

    try:
        server = _Server((_HOST, port), Handler)
    except OSError as error:
        raise RunError(
            f"cannot serve the page: {error.strerror}", where=f"port {port}", hint="--port 0 takes a free one"
        ) from error
    return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser may disconnect at any time.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
