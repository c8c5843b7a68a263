"""Command line of the agent: a verb, a request on stdin, events on stdout, and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from irepdeploy import __version__
from irepdeploy.board.board_files import BoardFiles
from irepdeploy.board.failure import named
from irepdeploy.errors import EXIT_BUG, EXIT_INTERRUPTED, InputError, IrepdeployError, RunError, one_line

from .cache import AgentCache, default_cache
from .events import PROTOCOL, EventStream
from .request import RequestStream, read_request

__all__ = ["main"]

_CHUNK = 1 << 20


def main(arguments: Sequence[str], program: Sequence[str]) -> int:
    """Run a verb and return the exit code."""
    parser = argparse.ArgumentParser(prog="irepdeploy-agent", description="irepdeploy's agent on a board")
    parser.add_argument("verb", choices=[*_VERBS, *_PROCESSES], metavar="|".join(_VERBS))
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--sysroot", default="/", metavar="DIR", help="files and programs of the board, for tests")
    parser.add_argument("--cache", default=default_cache(), metavar="DIR", help="default: %(default)s")
    given = parser.parse_args(list(arguments))
    command = [*program, "--sysroot", given.sysroot, "--cache", given.cache]
    agent = _Agent(BoardFiles(given.sysroot), AgentCache(given.cache), command)
    if given.verb in _PROCESSES:
        _PROCESSES[given.verb](agent, given.folder)
        return 0
    return agent.run(given.verb)


class _Agent:
    def __init__(self, files: BoardFiles, cache: AgentCache, command: list[str]) -> None:
        self.files, self.cache, self.command = files, cache, command
        self.requests = RequestStream(0)

    def run(self, verb: str) -> int:
        # Libraries may print, but stdout is for events only.
        self.events = EventStream(os.dup(1))
        os.dup2(2, 1)
        events = self.events
        with contextlib.suppress(ValueError, AttributeError):
            # By default, the signal would end the process in the middle of a line.
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        events.send("hello", protocol=PROTOCOL, agent=__version__, python=platform.python_version(), pid=os.getpid())
        try:
            request = read_request(self.requests)
            value = _VERBS[verb](self, request)
        except IrepdeployError as error:
            events.send("error", **named(error))
            return error.exit_code
        except KeyboardInterrupt:
            events.send("error", code=EXIT_INTERRUPTED, kind="", what="stopped", where=None, hint=None)
            return EXIT_INTERRUPTED
        except Exception as error:  # a bug in irepdeploy is reported as one
            what = f"{type(error).__name__}: {one_line(error)}"
            trace = traceback.format_exc()
            events.send("error", code=EXIT_BUG, kind="", what=what, where="agent", hint=None, traceback=trace)
            return EXIT_BUG
        events.send("result", verb=verb, value=value)
        # Exit code of the first model that failed.
        return next((model["error"]["code"] for model in value.get("models", ()) if not model["ok"]), 0)

    def libraries(self) -> dict[str, Any]:
        from .probe import probe

        return probe([*self.command, "_probe"])


# Each verb imports only what it needs, because every process compiles the archive anew.
def _check(agent: _Agent, request: dict[str, Any]) -> dict[str, Any]:
    from irepdeploy.board.system import system_block

    from . import guard
    from .board import board_facts

    agent.events.progress("check", "looking at the board")
    left = guard.unrestored(agent.cache)
    if left is not None:
        hint = "irepdeploy jetson restore restores them"
        agent.events.log(f"a run killed on {left['since']} left clocks or mode changed: {hint}", level="warning")
    facts = board_facts(agent.files, agent.libraries(), agent.cache.root)
    return {**facts, "unrestored": left, "system": system_block()}


def _steps(agent: _Agent, request: dict[str, Any]) -> dict[str, Any]:
    from irepdeploy.board.steps import run_step

    found = []
    for name, limit_s in _CHECKS.items():
        agent.events.progress("check", name)
        found.append(run_step(name, [*agent.command, "_step", name], limit_s).to_dict())
    return {"steps": found}


def _bench(agent: _Agent, request: dict[str, Any]) -> dict[str, Any]:
    from . import guard
    from .bench import Bench
    from .bench_request import parse_bench
    from .overseer import Overseer

    lifeline = request.get("lifeline")
    if lifeline is not None and not isinstance(lifeline, dict):
        raise InputError(f"expected an object, got {lifeline!r}", where="lifeline", hint='{"heartbeat_s": 60}')
    heartbeat_s = None if lifeline is None else lifeline.get("heartbeat_s")
    agent.events.limit_s = heartbeat_s
    parsed = parse_bench(request)
    if guard.unrestored(agent.cache) is not None:
        with agent.cache.lock():
            for text in guard.restore_left(agent.files, agent.cache):
                agent.events.log(f"restored after a killed run: {text}", level="warning")
    overseer = Overseer(agent.events, lifeline=None if lifeline is None else agent.requests, heartbeat_s=heartbeat_s)
    agent.events.progress("check", "looking at the board")
    bench = Bench(
        parsed,
        files=agent.files,
        cache=agent.cache,
        events=agent.events,
        overseer=overseer,
        command=agent.command,
        libraries=agent.libraries(),
    )
    return bench.run()


def _restore(agent: _Agent, request: dict[str, Any]) -> dict[str, Any]:
    from . import guard

    with agent.cache.lock():
        return {"restored": guard.restore_left(agent.files, agent.cache)}


def _have(agent: _Agent, request: dict[str, Any]) -> dict[str, Any]:
    digests = request.get("sha256")
    if not isinstance(digests, list):
        raise InputError("expected a list of digests", where="sha256")
    have = [digest for digest in digests if agent.cache.has(digest)]
    free = shutil.disk_usage(agent.cache.folder("")).free
    return {"have": have, "missing": [digest for digest in digests if digest not in have], "free_bytes": free}


def _put(agent: _Agent, request: dict[str, Any]) -> dict[str, Any]:
    digest: Any = request.get("sha256")
    size: Any = request.get("size_bytes")
    agent.cache.put(agent.requests, digest, size)
    return {"sha256": digest, "size_bytes": size}


def _get(agent: _Agent, request: dict[str, Any]) -> dict[str, Any]:
    path = agent.cache.job_file(request.get("job", ""), request.get("name", ""))
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise RunError(f"cannot read: {error.strerror}", where=path) from error
    digest = hashlib.sha256(content).hexdigest()
    agent.events.send("file", name=os.path.basename(path), sha256=digest, size_bytes=len(content))
    agent.events.write(content)
    return {}


def _clean(agent: _Agent, request: dict[str, Any]) -> dict[str, Any]:
    if "job" in request:
        return {"removed_bytes": agent.cache.end_job(request["job"])}
    if request.get("all") is not True:
        raise InputError("nothing to remove", where="clean", hint="name job or all")
    return {"removed_bytes": agent.cache.clean()}


_VERBS: dict[str, Any] = {
    "check": _check,
    "steps": _steps,
    "bench": _bench,
    "restore": _restore,
    "have": _have,
    "put": _put,
    "get": _get,
    "clean": _clean,
}


def _build(agent: _Agent, folder: str) -> None:
    from irepdeploy.board import engine_worker

    engine_worker.main(Path(folder))


def _measure(agent: _Agent, folder: str) -> None:
    from . import measurement

    measurement.main(folder)


def _guard(agent: _Agent, folder: str) -> None:
    from . import guard

    guard.main(agent.files, agent.cache)


# Steps of a thorough check and the time limit of each in seconds.
_CHECKS = {"bindings": 180.0, "graphs": 180.0}


def _step(agent: _Agent, name: str) -> None:
    from irepdeploy.board import cuda_check
    from irepdeploy.board.steps import answer

    check = {"bindings": cuda_check.check_bindings, "graphs": cuda_check.check_graphs}[name]
    # Written now, so that a crash at the end of the process does not lose it.
    print(json.dumps(answer(check)), flush=True)


def _probe(agent: _Agent, folder: str) -> None:
    from . import probe

    probe.main()


# Verbs that the agent itself starts.
_PROCESSES: dict[str, Any] = {
    "_probe": _probe,
    "_guard": _guard,
    "_build": _build,
    "_measure": _measure,
    "_step": _step,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], [sys.executable, "-m", "irepdeploy.jetson.agent.main"]))
