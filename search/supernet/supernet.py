"""The supernet: all candidate operations at once, trained through the subnets of a population (Eq. 3 to 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from irepdeploy.data.nested import mapped
from irepdeploy.errors import InputError, ModelError
from irepdeploy.reparam.block import Step
from irepdeploy.reparam.insert import Where, insert_branches
from irepdeploy.reparam.presets import preset_of
from irepdeploy.runtime.compiled import compile_step
from irepdeploy.runtime.memory_format import channels_last
from irepdeploy.tasks import Classification, Task
from irepdeploy.tasks.batches import wide
from irepdeploy.tasks.called import blamed, loss_of

from ..execution.ranks import Ranks
from .contribution import AnyNorm, Contribution, StepSum
from .space import Bits, SearchSpace

__all__ = ["Split", "Supernet"]

Split = Literal["subnets", "batch"]


class Supernet:
    """A network, channels last, with every possible branch of a preset; a subnet uses some of them.

    Args:
        net: The plain network; it is not changed.
        branches: Name of a preset.
        where: Layers that take part, as in `insert_branches`.
        task: Task that defines the loss. Default: classification.
        step: How blocks compute a training step; see `irepdeploy.set_step`.
        compile: Run steps of the whole supernet through torch.compile. Steps of subnets are not compiled, since each
            subnet would need its own graph.
    """

    def __init__(
        self,
        net: nn.Module,
        branches: str,
        *,
        where: Where = "*",
        task: Task | None = None,
        step: Step = "exact",
        compile: bool = False,
    ) -> None:
        self.model = channels_last(insert_branches(net, branches, where, scaled=True, step=step))
        self.task = (Classification() if task is None else task).bound(self.model)
        self._objective = self.task.objective(self.model)
        self._step = step
        self.space = SearchSpace.of(self.model, preset_of(branches).names)
        self._compile = compile
        self._compiled: Callable[..., Any] | None = None
        self._blocks = self.space.blocks(self.model)
        # (normalization, position of its branch or None), which determines the statistics that a subnet updates.
        self._norms = list(self._list_norms())
        self._others = [module for module in self.model.modules() if not isinstance(module, AnyNorm)]

    def weights(self) -> Iterator[nn.Parameter]:
        """Omega: all parameters except alpha and beta."""
        arch = {id(parameter) for parameter in self.arch_parameters()}
        return (parameter for parameter in self.model.parameters() if id(parameter) not in arch)

    def arch_parameters(self) -> Iterator[nn.Parameter]:
        """Theta: alpha and beta."""
        for block in self._blocks:
            yield from block.alpha.parameters()
            if block.beta is not None:
                yield block.beta

    def select(self, bits: Bits | None) -> None:
        """Activate the branches of a candidate, or all branches."""
        for block, names in zip(self._blocks, self.space.kept(bits), strict=True):
            block.active = names

    def accumulate(
        self,
        images: Tensor,
        labels: Any,
        subnets: Sequence[Bits | None],
        *,
        ranks: Ranks | None = None,
        split: Split = "subnets",
        amp: bool = False,
    ) -> float:
        """Replace ``.grad`` by the mean gradient of `subnets` (Eq. 3), and return their mean loss.

        Parameters outside all subnets get no gradient, so no optimizer updates them. Every subnet starts from the same
        statistics and draws random numbers from its own seed. Changes of a statistic, or of another buffer, are
        averaged over the subnets that use it, so the result does not depend on the number of processes.

        Args:
            images: (N, C, H, W), the same on all ranks.
            labels: Targets of the task.
            subnets: Masks of the subnets; None stands for the whole supernet.
            ranks: Processes that share the work. Default: this process alone.
            split: "subnets": each rank computes whole subnets, and on CPUs the weights are bit-identical to those of
                one process with the same number of threads. "batch": each rank computes every subnet on its part of
                the images, whose different batch statistics lead to different weights.
            amp: Run the forward pass in bfloat16 autocast.

        Raises:
            InputError: `split` is "subnets" with several ranks, and the network has a SyncBatchNorm.
        """
        ranks = ranks or Ranks.alone(images.device)
        if split == "subnets" and ranks.size > 1 and any(isinstance(bn, nn.SyncBatchNorm) for bn, _ in self._norms):
            raise InputError(
                "SyncBatchNorm takes the statistics of all processes together, and each computes another subnet",
                where="search.split",
                hint="search.split=batch, or BatchNorm2d",
            )
        step = StepSum(self.model.parameters(), [bn for bn, _ in self._norms], self._others)
        # Drawn alike on every rank, whatever its subnets; all subnets of a merged step sample the same positions.
        seed = int(torch.randint(2**62, ()))
        seeds = [seed if self._step == "merged" else seed + index for index in range(len(subnets))]
        if split == "batch":
            images, labels, weight = _part(images, labels, ranks)
            for bits, seed in zip(subnets, seeds, strict=True):
                step.add(self._contribution(step, images, labels, bits, len(subnets), amp, seed))
            mean = step.summed(step.mean(), weight, ranks)
        else:
            # In rounds of one subnet per rank, so that at most one set of gradients per rank is held at a time.
            for start in range(0, len(subnets), ranks.size):
                round_ = subnets[start : start + ranks.size]
                mine = None
                if ranks.rank < len(round_):
                    bits, seed = round_[ranks.rank], seeds[start + ranks.rank]
                    mine = self._contribution(step, images, labels, bits, len(subnets), amp, seed)
                for contribution in step.exchanged(mine, len(round_), ranks):
                    step.add(contribution)
            mean = step.mean()
        self.select(None)
        return step.write(mean)

    def _contribution(
        self, step: StepSum, images: Tensor, labels: Any, bits: Bits | None, count: int, amp: bool, seed: int
    ) -> Contribution:
        self.select(bits)
        with (
            blamed("the network in train mode", "net", ModelError),
            _seeded(seed, images.device),
            torch.autocast(images.device.type, torch.bfloat16, enabled=amp),
        ):
            if self._objective is None:
                outputs = self.task.outputs(self._forward(bits)(images))
            else:
                loss = self._objective(images, labels)
        if self._objective is None:
            loss = loss_of(self.task, wide(outputs) if amp else outputs, labels)
        (loss / count).backward()
        took_part = (position is None or bits is None or bits[position] for _, position in self._norms)
        return step.take(loss, [index for index, took in enumerate(took_part) if took])

    def _forward(self, bits: Bits | None) -> Callable[..., Any]:
        if bits is not None or not self._compile:
            return self.model
        if self._compiled is None:
            place = next(self.model.parameters()).device
            self._compiled = compile_step(self.model, place, "search.compile")
        return self._compiled

    def _list_norms(self) -> Iterable[tuple[AnyNorm, int | None]]:
        owner = {}
        for index, (row, column) in enumerate(self.space.positions):
            for module in self._blocks[row].branches[self.space.branches[column]].modules():
                owner[id(module)] = index
        for module in self.model.modules():
            if isinstance(module, AnyNorm):
                yield module, owner.get(id(module))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw random numbers from this seed, and restore the generators afterwards."""
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield


def _part(images: Tensor, labels: Any, ranks: Ranks) -> tuple[Tensor, Any, float]:
    """Return this rank's part of a batch, with at least two images for batch statistics, and its share of the batch."""
    parts = max(1, min(ranks.size, len(images) // 2))
    if ranks.rank >= parts:
        return images, labels, 0.0
    mine = images.tensor_split(parts)[ranks.rank]
    targets = mapped(lambda tensor: tensor.tensor_split(parts)[ranks.rank], labels)
    return channels_last(mine), targets, len(mine) / len(images)
