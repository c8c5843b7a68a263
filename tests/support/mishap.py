"""Run a command in a process that is killed, or whose disk becomes full, at a chosen moment.

Moments are calls: every write, rename, flush or removal under one folder is an event, numbered from 0. The process also
counts optimizer steps. It can be killed by the kernel after some seconds of CPU time, or when a file exceeds a limit,
which cuts the write off in the middle.
"""

from __future__ import annotations

import _pyio  # type: ignore[import-not-found]  # typeshed lacks it
import builtins
import errno
import io
import json
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from support.processes import run_ranks

__all__ = ["Mishap", "Undisturbed", "run_command", "run_undisturbed"]

_GROWING = ("open", "write", "mkdir", "rename", "replace", "link", "fsync")
_OTHERS = ("unlink", "remove", "rmdir", "truncate", "ftruncate", "chmod")
# Modules that the commands import late; imported here so that no forked process has to.
_IMPORTS = (
    "irepdeploy.bench.latency",
    "irepdeploy.bench.report.write",
    "irepdeploy.export.pipeline",
    "irepdeploy.plots.folder_pictures",
    "irepdeploy.verify.certificate",
    "matplotlib.backends.backend_svg",
    "onnxruntime",
    "support.mishap",
)


@dataclass(frozen=True)
class Mishap:
    """How a process is disturbed, and when.

    Attributes:
        how: "kill": before event `at`; "tear": in the middle of event `at`, a write; "step": after optimizer step `at`;
            "time": after `at` seconds of the process; "outgrow": when a file grows over `at` bytes. "full": from event
            `at` on nothing can be written; "limit": no file can grow over `at` bytes.
    """

    how: str
    at: float

    def __str__(self) -> str:
        return f"{self.how} at {self.at:g}"


@dataclass(frozen=True)
class Undisturbed:
    """The result of an undisturbed command."""

    events: list[str]
    steps: int
    seconds: float
    largest: int

    def named(self, mishap: Mishap) -> str:
        """Return a description of a mishap and its event."""
        tied = mishap.how in ("kill", "tear", "full") and mishap.at < len(self.events)
        return f"{mishap} ({self.events[int(mishap.at)]})" if tied else str(mishap)

    def mishaps(self, *kinds: str) -> list[Mishap]:
        """Return all mishaps of these kinds that occur at an event or a step."""
        found = []
        for number, event in enumerate(self.events):
            name = event.partition(" ")[0]
            found += [Mishap(kind, number) for kind in kinds if kind in ("kill", "full")]
            found += [Mishap("tear", number)] * ("tear" in kinds and name == "write")
        return found + [Mishap("step", step) for step in range(self.steps) if "step" in kinds]


def run_command(argv: list[str], folder: Path, mishap: Mishap | None = None) -> subprocess.CompletedProcess[str]:
    """Run an irepdeploy command that writes into `folder`; a killed process has a negative exit code."""
    return _run(argv, folder, mishap, None)


def run_undisturbed(argv: list[str], folder: Path) -> Undisturbed:
    """Run a command, which must succeed, and return what it did."""
    with tempfile.NamedTemporaryFile() as facts:
        done = _run(argv, folder, None, facts.name)
        assert done.returncode == 0, done.stderr
        return Undisturbed(**json.loads(Path(facts.name).read_bytes()))


def _run(argv: list[str], folder: Path, mishap: Mishap | None, facts: str | None) -> subprocess.CompletedProcess[str]:
    given = {"argv": argv, "folder": str(folder.resolve()), "mishap": mishap and asdict(mishap), "facts": facts}
    code = f"import json; from support.mishap import meet; raise SystemExit(meet(**json.loads({json.dumps(given)!r})))"
    (done,) = run_ranks(code, 1, timeout=600, imports=_IMPORTS)
    return done


def meet(argv: list[str], folder: str, mishap: dict[str, Any] | None, facts: str | None) -> int:
    """Run a command in this process, which must end afterwards, since functions that write stay replaced."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from irepdeploy.cli import main

    watch = _Watch(folder, Mishap(**mishap) if mishap else None)
    watch.install()
    register_optimizer_step_post_hook(watch.step)
    code = main(argv)
    if facts is not None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        sizes = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
        done = Undisturbed(watch.events, watch.steps, usage.ru_utime + usage.ru_stime, max(sizes, default=0))
        Path(facts).write_text(json.dumps(asdict(done)))
    return code


class _Watch:
    """Count the events of this process in a folder, and disturb it at one of them."""

    def __init__(self, folder: str, mishap: Mishap | None) -> None:
        self.folder, self.mishap = folder, mishap
        self.events: list[str] = []
        self.steps = 0

    def install(self) -> None:
        """Replace the functions that write, and set the limits."""
        for name in (*_GROWING, *_OTHERS):
            setattr(os, name, self._watched(name, getattr(os, name)))
        opened = io.open

        # Use the Python implementation of io, since it writes with os.write.
        def watched(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            return (_pyio.open if set(mode) & set("wax+") else opened)(file, mode, *args, **kwargs)

        builtins.open = io.open = watched
        how, at = (self.mishap.how, self.mishap.at) if self.mishap else ("", 0)
        if how == "time":
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, at)
        if how in ("outgrow", "limit"):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(at), int(at)))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if how == "outgrow" else signal.SIG_IGN)

    def step(self, *_: object) -> None:
        """Count a step of an optimizer."""
        if self._is("step", self.steps):
            _end()
        self.steps += 1

    def _is(self, how: str, number: int) -> bool:
        return self.mishap == Mishap(how, number)

    def _watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def function(target: Any, *args: Any, **kwargs: Any) -> Any:
            place = _place(target, kwargs.get("dir_fd"))
            reads = name == "open" and not args[0] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
            if reads or not place.startswith(self.folder):
                return original(target, *args, **kwargs)
            number = len(self.events)
            self.events.append(f"{name} {os.path.relpath(place, self.folder)}")
            if self._is("kill", number):
                _end()
            full = self.mishap is not None and self.mishap.how == "full" and number >= self.mishap.at
            if name == "write" and (self._is("tear", number) or self._is("full", number)):
                written = original(target, args[0][: len(args[0]) // 2])
                if full and written:
                    return written
                _end()
            if full and name in _GROWING:
                where = () if isinstance(target, int) else (os.fsdecode(target),)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *where)
            return original(target, *args, **kwargs)

        return function


def _place(target: Any, folder: int | None) -> str:
    if isinstance(target, int):
        return os.readlink(f"/proc/self/fd/{target}")
    base = os.getcwd() if folder is None else os.readlink(f"/proc/self/fd/{folder}")
    return os.path.join(base, os.fsdecode(target))


def _end() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed")
