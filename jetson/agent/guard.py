"""The guard process, which sets power mode and clocks and restores them whatever happens to the run.

It is detached from the terminal and from the run that it serves. When the pipe from that run closes, because the run
ended or was killed, all steps are undone in reverse order. Each step is written to a file before it is taken, so that
steps that the guard could not undo, because it was killed too or power failed, are undone the next time the board is
used.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from irepdeploy.board.board_files import BoardFiles
from irepdeploy.board.failure import from_named, named
from irepdeploy.board.nvpmodel import (
    CONFIGURATION,
    PowerMode,
    asks_reboot,
    current_mode,
    known_modes,
    needs_reboot,
)
from irepdeploy.errors import InputError, IrepdeployError, MissingError, RunError

from .cache import AgentCache

__all__ = ["Guard", "find_mode", "main", "restore_left", "unrestored"]

_NOTES = "restore.json"
# Any answer other than yes declines a mode that would reboot the board.
_DECLINE = "no\n"


class Guard:
    """The guard, as seen by the run that it serves."""

    def __init__(self, command: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise RunError(f"cannot start the guard of clocks and power mode: {error.strerror}") from error

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def switch(self, mode: int | None, *, pin: bool) -> list[str]:
        """Set a power mode (None keeps the current one) and, if `pin` is set, lock the clocks at its maximum.

        Raises:
            InputError: The mode needs a reboot.
            MissingError: A program or permission is missing.
            RunError: A setting failed; `restore` undoes the ones already made.
        """
        answer = self._ask({"mode": mode, "pin": pin})
        if "error" in answer:
            raise from_named(answer["error"])
        return list(answer["done"])

    def restore(self) -> list[str] | None:
        """Restore everything and return one line per step, or None if the guard was killed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        lines = self._process.stdout.read().splitlines()
        self._process.stdout.close()
        self._process.wait()
        return list(json.loads(lines[-1])["done"]) if lines else None

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            return dict(json.loads(self._process.stdout.readline()))
        except (OSError, ValueError) as error:
            raise RunError("the guard of clocks and power mode ended", hint="irepdeploy jetson check") from error


def main(files: BoardFiles, cache: AgentCache) -> None:
    """Run the guard process: read commands from stdin, answer on stdout, and restore everything when stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    steps = _Steps(files, cache)
    for line in sys.stdin.buffer:
        order = json.loads(line)
        try:
            steps.switch(order["mode"], pin=order["pin"])
            _answer({"done": steps.done})
        except IrepdeployError as error:
            _answer({"error": named(error)})
    _answer({"done": steps.undo()})


def find_mode(files: BoardFiles, wanted: str | int) -> PowerMode:
    """Return the power mode with this name or number."""
    if files.program("nvpmodel") is None:
        raise MissingError("no power modes here: no nvpmodel", where="--mode", hint="omit on non-Jetson machines")
    modes = known_modes(files)
    text = str(wanted)
    found = [mode for mode in modes if text in (str(mode.id), mode.name)]
    if not found:
        known = ", ".join(f"{mode.id} {mode.name}" for mode in modes) or "none"
        raise InputError(f"unknown power mode {text!r}", where="--mode", hint=f"modes here: {known}")
    now = current_mode(files)
    if now is not None and needs_reboot(files.read(CONFIGURATION), now.id, found[0].id):
        raise _reboot(found[0])
    return found[0]


def unrestored(cache: AgentCache) -> dict[str, Any] | None:
    """Return the changes that a killed run left behind, with their time and steps; None if there are none."""
    try:
        with open(os.path.join(cache.root, _NOTES), encoding="utf-8") as file:
            notes = json.load(file)
    except (OSError, ValueError):
        return None
    return {"since": notes["since"], "steps": [step["text"] for step in notes["steps"]]}


def restore_left(files: BoardFiles, cache: AgentCache) -> list[str]:
    """Undo the changes that a killed run left behind and return one line per step."""
    return _Steps(files, cache).undo()


def _answer(answer: dict[str, Any]) -> None:
    # The reader may have exited.
    with contextlib.suppress(OSError):
        print(json.dumps(answer), flush=True)


class _Steps:
    """Steps and how to undo them, each written to disk before it is taken."""

    def __init__(self, files: BoardFiles, cache: AgentCache) -> None:
        self._files, self._cache = files, cache
        self._path = os.path.join(cache.root, _NOTES)
        self._boot = files.read("/proc/sys/kernel/random/boot_id")
        self.done: list[str] = []
        self._notes: dict[str, Any] = {"since": _now(), "boot": self._boot, "steps": []}
        with contextlib.suppress(OSError, ValueError), open(self._path, encoding="utf-8") as file:
            self._notes = json.load(file)

    def switch(self, wanted: int | None, *, pin: bool) -> None:
        now = current_mode(self._files)
        change = wanted is not None and (now is None or now.id != wanted)
        if change:
            # The clocks may already be locked in the current mode.
            self._keep_clocks()
            self._set_mode(now, wanted)
        if pin:
            self._keep_clocks()
            self._run("jetson_clocks")
            self.done.append("clocks locked at the maximum of the mode")

    def undo(self) -> list[str]:
        done: list[str] = []
        kept: list[dict[str, Any]] = []
        for step in reversed(self._notes["steps"]):
            name, *arguments = step["undo"]
            # A reboot resets the clocks, but not the power mode.
            if name == "jetson_clocks" and self._notes["boot"] != self._boot:
                continue
            try:
                said = self._files.run(name, *arguments, as_root=True, stdin=_DECLINE)
                fault = _last(said.text) if said.code != 0 or "Error" in said.text else None
            except IrepdeployError as error:
                fault = error.line
            done.append(step["text"] if fault is None else f"FAILED to restore {step['text']}: {fault}")
            # Retry once on the next request, but not forever.
            if fault is not None and "tried" not in step:
                kept.insert(0, {**step, "tried": True})
            else:
                self._forget(name, arguments)
        self._notes["steps"] = kept
        with contextlib.suppress(OSError):
            if kept:
                self._write()
            else:
                os.unlink(self._path)
        return done

    def _set_mode(self, now: PowerMode | None, wanted: int | None) -> None:
        if now is not None:
            self._note(["nvpmodel", "-m", str(now.id)], f"power mode {now}")
        said = self._files.run("nvpmodel", "-m", str(wanted), as_root=True, stdin=_DECLINE)
        reached = current_mode(self._files)
        if asks_reboot(said.text):
            raise _reboot(PowerMode(int(wanted or 0), None))
        if reached is None or reached.id != wanted:
            raise RunError(f"nvpmodel did not set mode {wanted}: {_last(said.text)}", where="--mode")
        self.done.append(f"power mode {reached}, before: {now}")

    def _keep_clocks(self) -> None:
        folder = self._cache.folder("clocks")
        # jetson_clocks asks before it overwrites a file, hence a new name.
        path = os.path.join(folder, f"{time.time_ns()}.conf")
        self._run("jetson_clocks", "--store", path)
        if not os.path.isfile(path):
            raise RunError("jetson_clocks stored nothing, so clocks could not be restored", where="jetson_clocks")
        self._note(["jetson_clocks", "--restore", path], "clocks as they were")

    def _run(self, name: str, *arguments: str) -> None:
        said = self._files.run(name, *arguments, as_root=True, stdin=_DECLINE)
        # The script exits with 0 after most errors.
        if said.code or "Error" in said.text:
            raise RunError(f"{name} failed: {_last(said.text)}", where=" ".join((name, *arguments)))

    def _note(self, undo: list[str], text: str) -> None:
        self._notes["steps"].append({"undo": undo, "text": text})
        self._write()

    def _write(self) -> None:
        part = self._path + ".part"
        with open(part, "w", encoding="utf-8") as file:
            json.dump(self._notes, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self._path)

    def _forget(self, name: str, arguments: Sequence[str]) -> None:
        if name == "jetson_clocks" and arguments[:1] == ["--restore"]:
            with contextlib.suppress(OSError):
                os.unlink(arguments[1])
                os.rmdir(os.path.dirname(arguments[1]))


def _reboot(mode: PowerMode) -> InputError:
    return InputError(
        f"power mode {mode} needs a reboot",
        where="--mode",
        hint=f"on the board: sudo nvpmodel -m {mode.id}, confirm the reboot, then measure again",
    )


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:300] if lines else "it printed nothing"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
