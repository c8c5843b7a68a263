"""The two ways of scoring a population that Table 1 compares: naive, and with fused networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from irepdeploy.board.protocol import Ratio, percentile, ratio
from irepdeploy.data import Split
from irepdeploy.errors import CheckFailed
from irepdeploy.reparam.comparator import relative_error

from ..evaluation.evaluate import PopulationEvaluator
from ..supernet.space import Bits
from ..supernet.supernet import Supernet
from .naive import NaiveEvaluator
from .rounds import candidates, has_bf16, synchronized

__all__ = ["Scorers", "Sizes", "per_candidate", "speed_up"]

_ALLOWED = 1e-4


@dataclass(frozen=True)
class Sizes:
    """Images per forward pass and candidates per round; the prefix `naive_` is for the naive evaluation."""

    batch: int
    naive_batch: int
    chunk: int
    naive_chunk: int


class Scorers:
    """Evaluations of one supernet, in eval mode on its device, on the same images.

    Attributes:
        naive: The naive evaluation.
        evaluators: The other evaluations, by name: "fused", and "fused-bf16" if bfloat16 is faster.
        error: Relative error of the fused logits of one candidate on one batch.
        sizes: See `Sizes`.
    """

    def __init__(self, label: str, supernet: Supernet, data: Split, sizes: Sizes, seed: int) -> None:
        self.supernet, self.data, self.sizes = supernet, data, sizes
        self.device = next(supernet.model.parameters()).device
        self.random = np.random.default_rng(seed)
        self.naive = NaiveEvaluator(supernet.model, supernet.space, data, sizes.naive_batch)
        warm = self.candidates(1)
        self.evaluators = {"fused": self._fastest_layout(warm)}
        if has_bf16(self.device):
            self.evaluators["fused-bf16"] = PopulationEvaluator(supernet, data, sizes.batch, mode="fused-bf16")
        self.error = self._check(warm[0], label)

    def candidates(self, count: int) -> list[Bits]:
        """Draw random candidates that use the whole budget."""
        return candidates(self.supernet.space, count, self.random)

    def calls(self, population: Sequence[Bits]) -> dict[str, Callable[[], None]]:
        """Return calls for `measure`. Each warms up with one candidate, then scores the next part of the population."""
        sizes, chunk, few = self.sizes, self.sizes.chunk, self.sizes.naive_chunk
        parts = [population[start : start + chunk] for start in range(0, len(population), chunk)]

        def call(score: Callable[[Sequence[Bits]], object], chunks: Sequence[Sequence[Bits]]) -> Callable[[], None]:
            left = iter([self.candidates(1), *chunks])
            return synchronized(lambda: score(next(left)), torch.device("cpu"))

        calls = {"naive": call(self.naive.evaluate, [part[:few] for part in parts])}
        if sizes.batch != sizes.naive_batch:
            # This row shows how much of the gain is due to the batch size.
            name = f"naive, batches of {sizes.batch}"
            calls[name] = call(self.naive.in_batches_of(sizes.batch).evaluate, [part[:few] for part in parts])
        for name, evaluator in self.evaluators.items():
            calls[name] = call(evaluator.evaluate, parts)
        calls["fuse"] = synchronized(self.evaluators["fused"].refresh, self.device)
        return calls

    def _fastest_layout(self, warm: list[Bits]) -> PopulationEvaluator:
        """Return a channels-last evaluator, or on a GPU without TF32 the one with the faster memory format."""
        if self.device.type != "cuda":
            return PopulationEvaluator(self.supernet, self.data, self.sizes.batch)
        found = []
        for layout in (torch.contiguous_format, torch.channels_last):
            evaluator = PopulationEvaluator(self.supernet, self.data, self.sizes.batch, layout=layout)
            evaluator.evaluate(warm)
            started = time.perf_counter()
            evaluator.evaluate(self.candidates(1))
            found.append((time.perf_counter() - started, str(layout), evaluator))
        return min(found, key=lambda each: each[0])[2]

    @torch.inference_mode()
    def _check(self, bits: Bits, label: str) -> float:
        """Return the relative error of the fused logits of one batch."""
        images = self.data.images[: self.sizes.batch]
        self.naive.select(bits)
        expected = self.naive.network(images).double().cpu().numpy()
        error = relative_error(expected, self.evaluators["fused"].network(bits)(images).double().cpu().numpy())
        if not error <= _ALLOWED:
            raise CheckFailed(f"fused logits are off by {error:.1e}", where=label)
        return error


def per_candidate(
    name: str, rounds: Sequence[int], fuse: Sequence[int], size: int, chunk: int, naive_chunk: int
) -> list[float]:
    """Return the nanoseconds per candidate of each round, including its share of fusing once per population.

    Args:
        name: Name of the evaluation; a naive one needs no fuse.
        rounds: Nanoseconds of each round.
        fuse: Nanoseconds of each fuse.
        size: Candidates per population.
        chunk: Candidates per round.
        naive_chunk: Candidates per round of the naive evaluation.
    """
    if name.startswith("naive"):
        return [time / naive_chunk for time in rounds]
    share = percentile(fuse, 50) / size
    return [time / chunk + share for time in rounds]


def speed_up(naive: Sequence[float], own: Sequence[float], seed: int) -> tuple[float, Ratio]:
    """Return mean seconds per candidate and the speed-up over naive scoring, from nanoseconds per candidate."""
    speed = ratio([round(time) for time in naive], [round(time) for time in own], seed)
    return sum(own) / len(own) / 1e9, speed
