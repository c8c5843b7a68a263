"""Ranks: the processes of one run (torchrun), which share the work on subnets and candidates."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from traceback import clear_frames
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from irepdeploy.errors import IrepdeployError, MissingError, RunError, first_line

from .rendezvous import join, launcher, variable

__all__ = ["Ranks"]

_T = TypeVar("_T")

_FAILURE = "failure"
# Seconds that the rank which may host the store stays alive after a failure, for ranks that are still computing.
_LINGER = 30.0
_RESUME = "the last good state is kept: --resume continues from there"


class Ranks:
    """This process among the processes of the run; a context manager.

    Leaving the context with an error notifies the other ranks, so that each ends with an error that names the failed
    one. All ranks must call the collective methods in the same order; these raise RunError if a rank failed or did not
    answer. `launchers` identifies the torchrun processes that started the ranks.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        device: torch.device,
        store: Any = None,
        timeout: float = 0.0,
        launchers: frozenset[str] = frozenset(),
    ) -> None:
        self.rank = rank
        self.size = size
        self.device = device
        self.launchers = launchers
        self._store = store
        self._timeout = timedelta(seconds=timeout)

    @classmethod
    def alone(cls, device: str | torch.device = "cpu") -> Ranks:
        """Return the ranks of a single process, which does not start torch.distributed."""
        return cls(0, 1, torch.device(device))

    @classmethod
    def from_environment(cls, device: str = "cpu", *, timeout: float = 1800.0) -> Ranks:
        """Join the ranks that torchrun has started, or return `alone`."""
        size = variable("WORLD_SIZE", 1)
        if size == 1:
            return cls(0, 1, torch.device(device), launchers=frozenset(filter(None, [launcher()])))
        rank = variable("RANK", 0)
        place = torch.device(device)
        if place.type == "cuda":
            place = torch.device("cuda", variable("LOCAL_RANK", 0))
            if place.index >= torch.cuda.device_count():
                raise MissingError(
                    f"rank {rank} has no GPU: this machine has {torch.cuda.device_count()}",
                    where=f"rank {rank}",
                    hint="torchrun --nproc-per-node=GPUS",
                )
            torch.cuda.set_device(place)
        store, launchers = join(rank, size, place, timeout)
        return cls(rank, size, place, store, timeout, launchers)

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and shows progress."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Return the indices below `count` that belong to this rank: rank, rank + size, ..."""
        return range(self.rank, count, self.size)

    def gather(self, values: Sequence[_T], count: int) -> list[_T]:
        """Gather picklable values on every rank in index order; `values` follow the order of ``share(count)``."""
        if self.size == 1:
            return list(values)
        mine = torch.frombuffer(bytearray(pickle.dumps(list(values))), dtype=torch.uint8)
        lengths = self._exchange(torch.tensor([mine.numel()]), [1] * self.size)
        parts = self._exchange(mine, [int(length) for length in lengths])
        # Unpickling is safe here: the bytes come from our own ranks, never from a file.
        lists = [pickle.loads(part.numpy().tobytes()) for part in parts]  # noqa: TID251
        return [lists[index % self.size][index // self.size] for index in range(count)]

    def gather_flat(self, flat: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Gather one vector per rank in rank order, much faster than `gather` does for gradients.

        All vectors have the same dtype; `sizes` are their lengths, 0 for a rank without one.
        """
        if self.size == 1:
            return [flat]
        if flat.device.type == "cpu":
            return self._exchange(flat, sizes)
        from torch import distributed

        # Synchronize over gloo first: NCCL does not report which rank is lost.
        self.barrier()
        padded = flat.new_zeros(max(sizes))
        padded[: flat.numel()] = flat
        every = flat.new_empty(self.size * len(padded))
        distributed.all_gather_into_tensor(every, padded)
        return [part[:size] for part, size in zip(every.chunk(self.size), sizes, strict=True)]

    def sum(self, flat: Tensor) -> Tensor:
        """Sum one vector per rank; on a CPU, in rank order."""
        if self.size == 1:
            return flat
        if flat.device.type == "cpu":
            total, *others = self._exchange(flat, [flat.numel()] * self.size)
            for other in others:
                total = total + other
            return total
        from torch import distributed

        self.barrier()
        total = flat.clone()
        distributed.all_reduce(total)
        return total

    def barrier(self) -> None:
        """Wait until every rank has reached this point."""
        if self.size > 1:
            self._exchange(torch.zeros(1, dtype=torch.uint8), [1] * self.size)

    def close(self) -> None:
        """Leave the group once all ranks have reached this point."""
        if self._store is not None:
            try:
                self.barrier()
            finally:
                self._store = None
                self._leave()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._store is not None:
            reason = error.what if isinstance(error, IrepdeployError) else first_line(error)
            lost, _ = self._tell(self.rank, f"failed: {reason}")
            # End the exchanges that others wait for: after the report, and before waiting for them. The group, to which
            # frames of the errors still refer, would keep its connections open.
            each: BaseException | None = error
            while each is not None:
                clear_frames(each.__traceback__)
                each = each.__context__
            self._leave()
            self._let_others_know(lost)
            self._store = None

    def _exchange(self, mine: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Send `mine` to every other rank and receive theirs, pairwise, so that a silent rank can be identified."""
        from torch import distributed

        mine = mine.contiguous()
        received = [mine if rank == self.rank else mine.new_empty(size) for rank, size in enumerate(sizes)]
        others = [rank for rank in range(self.size) if rank != self.rank]
        pending = []
        for other in others:
            with self._waiting_for(other):
                if mine.numel():
                    pending.append((other, distributed.isend(mine, other)))
                if sizes[other]:
                    pending.append((other, distributed.irecv(received[other], other)))
        for other, work in pending:
            with self._waiting_for(other):
                assert work is not None
                work.wait(self._timeout)
        return received

    @contextmanager
    def _waiting_for(self, other: int) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            # A rank that lost another rank leaves too, and must not be reported as the lost one.
            silent = f"within {self._timeout.total_seconds():g} s" if "imed out" in str(error) else "any more"
            rank, what = self._tell(other, f"did not answer {silent}")
            raise RunError(f"rank {rank} of {self.size} {what}", where=f"rank {self.rank}", hint=_RESUME) from error

    def _tell(self, rank: int, what: str) -> tuple[int, str]:
        """Report to all ranks which one is lost, and return that rank; the first report counts."""
        told = f"{rank} {what}"
        with suppress(RuntimeError):
            told = self._store.compare_set(_FAILURE, "", told).decode()
        number, _, what = told.partition(" ")
        return int(number), what

    def _let_others_know(self, lost: int) -> None:
        """Wait briefly until the other ranks know which one is lost: without torchrun, rank 0 hosts the store."""
        others = [f"left/{rank}" for rank in range(self.size) if rank not in (lost, self.rank)]
        with suppress(RuntimeError):
            self._store.set(f"left/{self.rank}", "")
            if self.first and others:
                self._store.wait(others, timedelta(seconds=_LINGER))

    def _leave(self) -> None:
        from torch import distributed

        distributed.destroy_process_group()
