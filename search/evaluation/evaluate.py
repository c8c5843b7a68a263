"""Score a population by fused networks: branches are fused once, and candidates sum cached kernels (Section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from irepdeploy.data import Split, Stream
from irepdeploy.errors import InputError
from irepdeploy.reparam.block import RepBlock

from ..supernet.space import Bits
from ..supernet.supernet import Supernet
from .captured import CapturedForward
from .fitness import Fitness, Outcome, joined, score, statistics_of
from .kernels import PlainNetwork

__all__ = ["Fitness", "Mode", "PopulationEvaluator", "score"]

Mode = Literal["fused", "fused-bf16", "multi-branch"]


class PopulationEvaluator:
    """Scores candidates of a supernet by its task. Call `refresh` after every change of the weights.

    Images and labels are moved to the supernet's device once. The outcome of a candidate does not depend on which other
    candidates are scored, so candidates can be distributed over ranks.

    Args:
        supernet: The supernet, in train or eval mode; it is not changed.
        data: The search-validation set, never the test set. A stream is read once for each call of `outcomes`.
        batch_size: Images per forward pass.
        mode: "fused": plain networks in the supernet's dtype; "fused-bf16": the same with weights and activations in
            bfloat16, kernels summed in the supernet's dtype and rounded once; "multi-branch": the supernet with masks.
        cuts: Ascending image counts at which the set is cut into parts that can be scored separately.
        seed: Seed of the shuffle that precedes the cuts; unused without cuts.
        layout: Memory format of activations and kernels. On a GPU without tensor cores, or in float32 without TF32,
            ``torch.contiguous_format`` may be faster.
        graph: Capture the plain network as a CUDA graph. None: only on CUDA devices, and not in "multi-branch" mode.

    Raises:
        InputError: `cuts` do not fit the data, or `graph` is True where no CUDA graph can be captured.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: Split | Stream,
        batch_size: int = 200,
        *,
        mode: Mode = "fused",
        cuts: Sequence[int] = (),
        seed: int = 0,
        layout: torch.memory_format = torch.channels_last,
        graph: bool | None = None,
    ) -> None:
        if mode not in get_args(Mode):
            raise InputError(f"unknown mode {mode!r} of evaluation", hint=f"one of {', '.join(get_args(Mode))}")
        edges = [0, *cuts, len(data)]
        if any(start >= end for start, end in pairwise(edges)):
            raise InputError(f"a set of {len(data)} images cannot be cut at {list(cuts)}", where="cuts")
        self.sizes = [end - start for start, end in pairwise(edges)]
        self._parts = [slice(start, end) for start, end in pairwise(edges)]
        self._supernet = supernet
        self._task = supernet.task
        self._batch_size = batch_size
        self._layout = layout
        weight = next(supernet.model.parameters())
        self._device, self._wide = weight.device, weight.dtype
        # In the other modes every weight keeps its dtype.
        narrow = torch.bfloat16 if mode == "fused-bf16" else None
        self._dtype = narrow or weight.dtype
        self._plain: PlainNetwork | None = None
        if mode != "multi-branch":
            self._plain = PlainNetwork(supernet.model, supernet.space, dtype=narrow, layout=layout)
        on_cuda = self._device.type == "cuda"
        if graph and not (on_cuda and self._plain is not None):
            raise InputError(f"{mode} on {self._device} cannot be captured as a CUDA graph", hint="graph=None")
        captured = self._plain is not None and (on_cuda if graph is None else graph)
        self._forward: Callable[[Tensor], Any] = self._network
        if captured:
            self._forward = CapturedForward(self._network)
        self.how = "cuda graph" if captured else "eager"
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)) if cuts else None
        self._stream: Stream | None = None
        if isinstance(data, Stream):
            self._stream = data
            if cuts:
                raise InputError(
                    "racing needs all images of val in memory, of one size", where="search.evaluation.racing.share"
                )
        else:
            self._put(data.to(self._device), order)
        self._known: dict[tuple[bytes, int], Outcome] = {}

    def refresh(self) -> None:
        """Fuse the supernet's branches again, and discard the outcomes of the old weights."""
        if self._plain is not None:
            self._plain.refresh()
        self._known.clear()

    def evaluate(self, population: Sequence[Bits]) -> list[Fitness]:
        """Score each candidate on the whole set; identical ones are scored once."""
        parts = [self.outcomes(population, part) for part in range(len(self.sizes))]
        return [joined(outcomes).fitness for outcomes in zip(*parts, strict=True)]

    @torch.inference_mode()
    def outcomes(self, candidates: Sequence[Bits], part: int = 0) -> list[Outcome]:
        """Run each candidate on the images of one part; identical candidates are run once.

        On a GPU the host synchronizes with the device once per candidate.
        """
        missing = {bits.tobytes(): bits for bits in candidates if (bits.tobytes(), part) not in self._known}
        if missing:
            candidates_of = zip(missing.items(), self._masks(list(missing.values())), strict=True)
            with self._in_eval_mode():
                if self._stream is not None:
                    self._known.update(self._run_stream(self._stream, list(candidates_of)))
                else:
                    for (key, bits), mask in candidates_of:
                        self._write(bits, mask)
                        self._known[key, part] = self._run(self._parts[part])
        return [self._known[bits.tobytes(), part] for bits in candidates]

    def network(self, bits: Bits) -> nn.Module:
        """Return the network of a candidate. It is always the same module, with other kernels or another mask."""
        self._write(bits, self._masks([bits])[0])
        return self._network

    @property
    def _network(self) -> nn.Module:
        return self._supernet.model if self._plain is None else self._plain.network

    def _masks(self, candidates: Sequence[Bits]) -> Tensor:
        return torch.from_numpy(np.stack(candidates)).to(self._device, self._wide)

    def _write(self, bits: Bits, mask: Tensor) -> None:
        if self._plain is None:
            self._supernet.select(bits)
        else:
            self._plain.write(mask)

    def _run(self, part: slice) -> Outcome:
        rows = []
        for start in range(part.start, part.stop, self._batch_size):
            batch = slice(start, min(start + self._batch_size, part.stop))
            raw = self._forward(self._batch(batch))
            rows.append(statistics_of(self._task, raw, self._labels[batch], batch.stop - start))
        return Outcome.of(rows, self._task)

    def _run_stream(self, stream: Stream, candidates: list[Any]) -> dict[tuple[bytes, int], Outcome]:
        """Score every candidate on one batch after another, so that the stream is read once."""
        rows: dict[bytes, list[Tensor]] = {key: [] for (key, _), _ in candidates}
        for images, targets in stream.in_order(self._batch_size, self._device):
            images = self._laid_out(images)
            for (key, bits), mask in candidates:
                self._write(bits, mask)
                rows[key].append(statistics_of(self._task, self._forward(images), targets, len(images)))
        return {(key, 0): Outcome.of(each, self._task) for key, each in rows.items()}

    def _put(self, data: Split, order: Tensor | None) -> None:
        """Keep the data on the device; images in a tensor are converted to the network's dtype and layout once."""
        self._images, self._labels, self._order = data.images, data.labels, None
        if order is not None:
            order = order.to(self._device)
            self._labels, self._order = data.labels[order], order
        if isinstance(self._images, Tensor):
            self._images, self._order = self._laid_out(self._images if order is None else self._images[order]), None

    def _batch(self, batch: slice) -> Tensor:
        images = self._images[batch if self._order is None else self._order[batch]]
        return self._laid_out(images)

    def _laid_out(self, images: Tensor) -> Tensor:
        # This also converts integer and float64 images for float32 networks.
        return images.to(self._dtype).contiguous(memory_format=self._layout)

    @contextmanager
    def _in_eval_mode(self) -> Iterator[None]:
        """Restore the supernet's state after running it with masks."""
        if self._plain is not None:
            yield
            return
        modules = list(self._supernet.model.modules())
        training = [module.training for module in modules]
        active = [(block, block.active) for block in modules if isinstance(block, RepBlock)]
        self._supernet.model.eval()
        try:
            yield
        finally:
            for module, was in zip(modules, training, strict=True):
                module.training = was
            for block, names in active:
                block.active = names
