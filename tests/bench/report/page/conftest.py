"""Headless Chromium driven through its debugging pipe, without a driver program, a port or a package."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_PATIENCE_S = 600.0


class Chromium:
    """A browser with one tab and its own profile.

    Attributes:
        messages: Console output of pages, and uncaught errors, since the last `open`.
        requests: Addresses outside the page that it requested since the last `open`.
    """

    def __init__(self, program: str, profile: Path) -> None:
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]
        # Chromium reads commands from descriptor 3 and writes answers to 4; ours stay clear of both.
        to_read, self._to = (_high(end) for end in os.pipe())
        self._from, to_write = (_high(end) for end in os.pipe())
        silent = os.open(os.devnull, os.O_RDWR)
        self.process = os.posix_spawn(
            program,
            [program, *arguments],
            dict(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, silent, 1),
                (os.POSIX_SPAWN_DUP2, silent, 2),
                (os.POSIX_SPAWN_DUP2, to_read, 3),
                (os.POSIX_SPAWN_DUP2, to_write, 4),
            ],
            setpgroup=0,
        )
        for end in (to_read, to_write, silent):
            os.close(end)
        self._buffer, self._number, self._session = b"", 0, ""
        self.messages: list[str] = []
        self.requests: list[str] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.command(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )

    def close(self) -> None:
        """Stop the browser with all its processes."""
        os.close(self._to)
        os.close(self._from)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; events that arrive in the meantime are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        return self._wait(lambda answer: answer.get("id") == self._number, method)["result"]

    def open(
        self, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False
    ) -> None:
        """Load a file, as shown on a screen of this size and colour scheme."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.command("Emulation.setEmulatedMedia", features=scheme)
        self.go(page.as_uri())

    def go(self, address: str) -> None:
        """Load an address."""
        self.messages.clear()
        self.requests.clear()
        self.command("Page.navigate", url=address)
        self.wait_for("Page.loadEventFired")

    def wait_for(self, event: str) -> None:
        """Wait until the next event of this name."""
        self._wait(lambda message: message.get("method") == event, event)

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        done = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def hover(self, x: float, y: float) -> None:
        """Move the pointer to a position."""
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Press and release one key."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "ArrowRight": 39}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, path: Path, **clip: float) -> Path:
        """Return the whole page, or `clip` (x, y, width, height) of it, as PNG."""
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        area = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1, **clip}
        done = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=area)
        path.write_bytes(base64.b64decode(done["data"]))
        return path

    def _wait(self, wanted: Any, what: str) -> dict[str, Any]:
        until = time.monotonic() + _PATIENCE_S
        while True:
            head, found, rest = self._buffer.partition(b"\0")
            if found:
                self._buffer = rest
                message = json.loads(head)
                self._keep(message)
                if wanted(message):
                    assert "error" not in message, (what, message["error"])
                    return message
                continue
            ready, _, _ = select.select([self._from], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"Chromium does not answer: {what}"
            read = os.read(self._from, 1 << 20)
            assert read, f"Chromium has ended: {what}"
            self._buffer += read

    def _keep(self, message: dict[str, Any]) -> None:
        method, given = message.get("method"), message.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(each.get("value")) for each in given["args"]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(given["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.messages.append(given["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not given["request"]["url"].startswith("data:"):
            self.requests.append(given["request"]["url"])


def _high(descriptor: int) -> int:
    """The same descriptor above those that the child is given."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


@pytest.fixture(scope="module")
def _browsers() -> Iterator[list[Chromium]]:
    """The one that a file's tests share, once the first of them has asked for it."""
    started: list[Chromium] = []
    yield started
    for browser in started:
        browser.close()


@pytest.fixture
def chromium(
    requires_debian: Callable[[str, str], str],
    _browsers: list[Chromium],
    tmp_path_factory: pytest.TempPathFactory,
) -> Chromium:
    """A running Chromium without network access; skipped if it is not installed, which is a failure in CI."""
    program = requires_debian("chromium", "chromium")
    if not _browsers:
        _browsers.append(Chromium(program, tmp_path_factory.mktemp("chromium")))
    return _browsers[0]
