"""Run code as several ranks on this machine, as torchrun does, and return how each of them ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["run_ranks"]

# Imports torch once and forks: importing it in every rank would take longer than most tests.
_FORK = """
import os, signal, sys, traceback
import irepdeploy.search.execution.ranks

folder, size, code = sys.argv[1], int(sys.argv[2]), sys.argv[3]
del sys.argv[1:]

def run(rank):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{rank}.{name}", os.O_WRONLY | os.O_CREAT, 0o600), stream)
    try:
        exec(compile(code, "<rank>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

running = {}
for rank in range(size):
    process = os.fork()
    if not process:
        code = run(rank)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    running[process] = rank
def end_all(*_):
    for process in running:
        os.kill(process, signal.SIGKILL)
signal.signal(signal.SIGTERM, end_all)
stopped = set()
while running:
    process, status = os.waitpid(-1, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        stopped.add(process)
    else:
        with open(f"{folder}/{running.pop(process)}.code", "w") as file:
            file.write(str(os.waitstatus_to_exitcode(status)))
    if stopped >= set(running):
        end_all()
"""


def run_ranks(code: str, size: int, *, timeout: float = 60.0) -> list[subprocess.CompletedProcess[str]]:
    """Run `code` as `size` ranks of one thread each over the loopback interface.

    Ranks that still run after `timeout` seconds are killed, and so is a stopped one once the others have ended.

    Returns:
        The exit code (negative for a signal), stdout and stderr of each rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", _FORK, folder, str(size), code]
        parent = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            _, errors = parent.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            parent.terminate()
            _, errors = parent.communicate()
        return [
            subprocess.CompletedProcess(
                command,
                int(_read(f"{folder}/{rank}.code") or parent.returncode),
                _read(f"{folder}/{rank}.out"),
                _read(f"{folder}/{rank}.err") or errors,
            )
            for rank in range(size)
        ]


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""
