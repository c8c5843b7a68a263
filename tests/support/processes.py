"""Run code as several ranks on this machine, as torchrun does, and wait for processes."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["free_port", "run_ranks", "wait_for_end"]

# Import torch once and fork for each rank: importing it in every rank would take longer than most tests.
_SERVER = """
import importlib, json, os, signal, sys, traceback
from support.processes import free_port
import irepdeploy.cli
import irepdeploy.search.engine
import irepdeploy.search.training.training
import sklearn.datasets
import torch._dynamo

def run(rank, job):
    os.environ.update(job["environment"], RANK=str(rank), LOCAL_RANK=str(rank))
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{job['folder']}/{rank}.{name}", os.O_WRONLY | os.O_CREAT, 0o600), stream)
    try:
        exec(compile(job["code"], "<rank>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

def serve(job):
    # Only now, since another process may take the port while the imports go on.
    job["environment"]["MASTER_PORT"] = str(free_port())
    running = {}
    for rank in range(job["size"]):
        process = os.fork()
        if not process:
            code = run(rank, job)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        running[process] = rank

    def end_all(*_):
        for process in running:
            os.kill(process, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end_all)
    signal.alarm(job["timeout"])
    stopped = set()
    while running:
        process, status = os.waitpid(-1, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            stopped.add(process)
        else:
            with open(f"{job['folder']}/{running.pop(process)}.code", "w") as file:
                file.write(str(os.waitstatus_to_exitcode(status)))
        if stopped >= set(running):
            end_all()

for line in sys.stdin:
    job = json.loads(line)
    for name in job["imports"]:
        importlib.import_module(name)
    process = os.fork()
    if not process:
        serve(job)
        os._exit(0)
    os.waitpid(process, 0)
    print("done", flush=True)
"""


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended: a signal, even SIGKILL, takes effect some time after it was sent.

    Unlike with `os.waitpid`, the process need not be a child of this one, and a zombie counts as ended.
    """
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        with open(process, "rb", buffering=0):
            assert select.select([process], [], [], 600)[0], f"process {pid} is still running"


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the process that forks the ranks; it ends with this one."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _SERVER]
    server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


def run_ranks(
    code: str, size: int, *, timeout: int = 600, imports: Sequence[str] = ()
) -> list[subprocess.CompletedProcess[str]]:
    """Run `code` as `size` ranks with one thread each over the loopback interface.

    Ranks that are still running after `timeout` seconds are killed, and so is a stopped rank once the others have
    ended. The modules `imports` are imported before the ranks are forked, once for all calls.

    Returns:
        The exit code (negative for a signal), stdout and stderr of each rank.
    """
    environment = {"WORLD_SIZE": str(size)}
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = {"code": code, "size": size, "timeout": timeout, "folder": name, "environment": environment}
        job["imports"] = list(imports)
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        assert server.stdout.readline() == "done\n", "the process that forks the ranks has ended"
        return [
            subprocess.CompletedProcess(
                f"rank {rank}",
                int((folder / f"{rank}.code").read_text()),
                (folder / f"{rank}.out").read_text(),
                (folder / f"{rank}.err").read_text(),
            )
            for rank in range(size)
        ]
