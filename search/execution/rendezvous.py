"""Rendezvous of the processes of a run, including after torchrun has restarted them."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
import uuid
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from irepdeploy.errors import InputError, RunError, first_line

__all__ = ["join", "launcher", "variable"]

# Seconds within which the store must answer.
_STORE_ANSWERS = 60.0
# Seconds between two checks for a session that replaces one whose ranks have ended.
_LOOK = 0.1


def launcher() -> str:
    """Return an identifier of the torchrun process that starts and restarts this one; "" without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    parent = os.getppid()
    try:
        # Process ids are reused; the start time tells two processes with the same id apart.
        began = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
    return hashlib.sha256(f"{socket.gethostname()} {parent} {began}".encode()).hexdigest()[:16]


def join(rank: int, size: int, device: torch.device, timeout: float) -> tuple[Any, frozenset[str]]:
    """Start torch.distributed; return a store that all ranks share, and the launchers of all ranks.

    Raises:
        RunError: A rank did not join within `timeout` seconds.
    """
    from torch import distributed

    limit = timedelta(seconds=timeout)
    try:
        # torch's own rendezvous reports how many ranks are missing, but not which.
        root = distributed.TCPStore(
            os.environ.get("MASTER_ADDR", "127.0.0.1"),
            variable("MASTER_PORT", 29500),
            size,
            is_master=rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True",
            timeout=limit,
            wait_for_workers=False,
            multi_tenant=True,
        )
        session, launchers = _session(distributed.PrefixStore("irepdeploy", root), rank, size, timeout)
        store = distributed.PrefixStore(f"irepdeploy/{session}", root)
        store.set_timeout(timedelta(seconds=_STORE_ANSWERS))
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=distributed.PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=limit,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(
            f"rank {rank} cannot join the others: {first_line(error)}",
            where=f"rank {rank}",
            hint="MASTER_ADDR and MASTER_PORT must be reachable from every machine",
        ) from error
    return store, launchers


def _session(store: Any, rank: int, size: int, timeout: float) -> tuple[str, frozenset[str]]:
    """Agree on a name for this start of the ranks, and return it with their launchers.

    torchrun restarts lost ranks in the same store, which still holds the entries of the earlier ones. Its restart count
    does not identify a start: it differs between machines, since only a machine that lost a process increments it.
    """
    end = time.monotonic() + timeout
    me = f"{uuid.uuid4().hex} {launcher()}"
    if rank == 0:
        session = uuid.uuid4().hex
        store.set("session", session)
        store.set(f"{session}/0", me)
        for other in range(size):
            if not _comes(store, f"{session}/{other}", end - time.monotonic()):
                raise _missing(other, size, timeout)
        ranks = [store.get(f"{session}/{other}").decode() for other in range(size)]
        store.set(f"{session}/all", json.dumps(ranks))
        return session, _launchers(ranks)
    while True:
        if not _comes(store, "session", end - time.monotonic()):
            raise _missing(0, size, timeout)
        session = store.get("session").decode()
        store.set(f"{session}/{rank}", me)
        # In a session that has ended, the list lacks this process or never appears.
        if _comes(store, f"{session}/all", _LOOK):
            ranks = json.loads(store.get(f"{session}/all"))
            if me in ranks:
                return session, _launchers(ranks)
            time.sleep(_LOOK)
        if time.monotonic() > end:
            absent = next((other for other in range(size) if not store.check([f"{session}/{other}"])), 0)
            raise _missing(absent, size, timeout)


def _comes(store: Any, key: str, seconds: float) -> bool:
    """Wait for a key of the store and return whether it appears."""
    try:
        store.wait([key], timedelta(seconds=max(seconds, 0.001)))
    except RuntimeError:
        return False
    return True


def _launchers(ranks: Sequence[str]) -> frozenset[str]:
    return frozenset(name for name in (each.partition(" ")[2] for each in ranks) if name)


def _missing(other: int, size: int, seconds: float) -> RunError:
    return RunError(
        f"rank {other} of {size} did not join within {seconds:g} s",
        where=f"rank {other}",
        hint="start every rank with torchrun, or with the same WORLD_SIZE",
    )


def variable(name: str, default: int) -> int:
    """Return an integer environment variable, such as torchrun sets.

    Raises:
        InputError: The variable is not a number.
    """
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise InputError(
            f"{text!r} is not a number", where=name, hint=f"torchrun sets it; else: unset {name}"
        ) from None
