"""Contribution of one subnet to a step: its gradients and the changes of its statistics."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..execution.ranks import Ranks

__all__ = ["AnyNorm", "Contribution", "StepSum"]

# Normalizations with running statistics, of any number of dimensions.
AnyNorm = nn.modules.batchnorm._NormBase


@dataclass(frozen=True)
class Contribution:
    """Loss, gradients and changes of buffers of one subnet, or of the mean of several.

    Gradients are indexed by parameter, changes by buffer; those outside the subnet are missing. Buffers that are not
    floating point, such as counters, are stored in `values` as the subnet left them.
    """

    loss: Tensor | float
    gradients: dict[int, Tensor]
    changes: dict[int, Tensor]
    values: dict[int, Tensor] = field(default_factory=dict)


class StepSum:
    """Sums the contributions to one step in order; every subnet starts from the same statistics.

    Args:
        parameters: Parameters that get gradients.
        norms: Normalizations; a subnet may use only some of them.
        others: User-defined modules, whose other buffers may change in the forward pass of every subnet.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], norms: Iterable[AnyNorm], others: Iterable[nn.Module] = ()
    ) -> None:
        self._parameters = list(parameters)
        self._buffers: list[Tensor] = []
        # Batch counter of each batch normalization, by index of its running mean.
        self._counters: dict[int, Tensor] = {}
        self._of_norm: list[list[int]] = []
        for bn in norms:
            first = len(self._buffers)
            if bn.running_mean is not None and bn.running_var is not None:
                self._buffers += [bn.running_mean, bn.running_var]
                if bn.num_batches_tracked is not None:
                    self._counters[first] = bn.num_batches_tracked
            self._of_norm.append(list(range(first, len(self._buffers))))
        self._others = [
            _Other(module, name, first) for first, (module, name) in enumerate(_held(others), len(self._buffers))
        ]
        self._buffers += [other.tensor for other in self._others]
        self._start = [tensor.clone() for tensor in self._buffers]
        self._start_counters = {index: counter.clone() for index, counter in self._counters.items()}
        self._losses: list[Tensor | float] = []
        self._gradients: dict[int, Tensor] = {}
        self._changes: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._subnets = [0] * len(self._buffers)
        for parameter in self._parameters:
            parameter.grad = None

    def take(self, loss: Tensor, norms: Sequence[int]) -> Contribution:
        """Return the contribution of the last pass through these normalizations; reset gradients and statistics."""
        gradients = {}
        for index, parameter in enumerate(self._parameters):
            if parameter.grad is not None:
                gradients[index] = parameter.grad
                parameter.grad = None
        touched = [index for norm in norms for index in self._of_norm[norm]]
        now, start = [self._buffers[index] for index in touched], [self._start[index] for index in touched]
        changes = _foreach(torch._foreach_sub, now, start)
        _foreach(torch._foreach_copy_, now, start)
        counted = [index for index in touched if index in self._counters]
        now = [self._counters[index] for index in counted]
        _foreach(torch._foreach_copy_, now, [self._start_counters[index] for index in counted])
        found = Contribution(loss.detach(), gradients, dict(zip(touched, changes, strict=True)))
        for other in self._others:
            other.take(self._start[other.index], found)
        return found

    def add(self, contribution: Contribution) -> None:
        """Add a contribution and take ownership of its tensors."""
        self._losses.append(contribution.loss)
        _add(self._gradients, contribution.gradients)
        _add(self._changes, contribution.changes)
        for index in contribution.changes:
            self._subnets[index] += 1
        self._values = {**contribution.values, **self._values}

    def mean(self) -> Contribution:
        """Return means over the subnets that took part; gradients are summed, since the losses were already divided."""
        _foreach(torch._foreach_div_, list(self._changes.values()), [float(self._subnets[i]) for i in self._changes])
        loss = sum(float(loss) for loss in self._losses) / len(self._losses)
        return Contribution(loss, self._gradients, self._changes, self._values)

    def write(self, mean: Contribution) -> float:
        """Store gradients in ``.grad``, update the statistics as for one batch, and return the loss."""
        for index, gradient in mean.gradients.items():
            self._parameters[index].grad = gradient
        _foreach(torch._foreach_add_, [self._buffers[index] for index in mean.changes], list(mean.changes.values()))
        _foreach(torch._foreach_add_, [self._counters[index] for index in mean.changes if index in self._counters], 1)
        for index, value in mean.values.items():
            self._buffers[index].copy_(value)
        return float(mean.loss)

    def exchanged(self, mine: Contribution | None, count: int, ranks: Ranks) -> list[Contribution]:
        """Gather the contributions of the first `count` ranks; `mine` is None if this rank is not among them."""
        if ranks.size == 1:
            return [] if mine is None else [mine]
        heads = ranks.gather([] if mine is None else [_head(mine)], count)
        sizes = [sum(tensor.numel() for tensor in self._like(*head[1:3])) for head in heads]
        flat = self._flattened(mine) if mine is not None else self._parameters[0].new_empty(0, dtype=self._dtype)
        flats = ranks.gather_flat(flat, sizes + [0] * (ranks.size - count))
        return [self._unflattened(flat, *head) for flat, head in zip(flats, heads, strict=False)]

    def summed(self, mine: Contribution, weight: float, ranks: Ranks) -> Contribution:
        """Sum ``weight * mine`` over all ranks, which have the same subnets."""
        _, gradients, changes, values = _head(mine)
        told = ranks.gather([(float(mine.loss) * weight, values)], ranks.size)
        loss, values = sum(each for each, _ in told), told[0][1]
        return self._unflattened(ranks.sum(self._flattened(mine) * weight), loss, gradients, changes, values)

    def _like(self, gradients: Sequence[int], changes: Sequence[int]) -> list[Tensor]:
        return [self._parameters[index] for index in gradients] + [self._buffers[index] for index in changes]

    def _unflattened(
        self, flat: Tensor, loss: float, gradients: Sequence[int], changes: Sequence[int], values: dict[int, Tensor]
    ) -> Contribution:
        """Return the contribution that `flat` holds, as views laid out like parameters and buffers."""
        like = self._like(gradients, changes)
        parts = [
            part.to(tensor.dtype) for part, tensor in zip(flat.split([t.numel() for t in like]), like, strict=True)
        ]
        views = [p.as_strided(t.shape, t.stride(), p.storage_offset()) for p, t in zip(parts, like, strict=True)]
        count = len(gradients)
        return Contribution(
            loss,
            dict(zip(gradients, views[:count], strict=True)),
            dict(zip(changes, views[count:], strict=True)),
            values,
        )

    def _flattened(self, contribution: Contribution) -> Tensor:
        """Concatenate all tensors, each in memory order: torch gives a gradient the layout of its parameter."""
        tensors = [*contribution.gradients.values(), *contribution.changes.values()]
        flat = [tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset()) for tensor in tensors]
        return torch.cat(flat).to(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        """Dtype of the exchange, equal on all ranks: the widest of parameters and statistics."""
        kinds = {tensor.dtype for tensor in (*self._parameters, *self._buffers) if tensor.is_floating_point()}
        return functools.reduce(torch.promote_types, kinds)


def _head(contribution: Contribution) -> tuple[float, list[int], list[int], dict[int, Tensor]]:
    values = {index: value.cpu() for index, value in contribution.values.items()}
    return float(contribution.loss), list(contribution.gradients), list(contribution.changes), values


def _add(total: dict[int, Tensor], more: dict[int, Tensor]) -> None:
    both = [index for index in more if index in total]
    _foreach(torch._foreach_add_, [total[index] for index in both], [more[index] for index in both])
    total.update({index: tensor for index, tensor in more.items() if index not in total})


def _foreach(function: Any, tensors: list[Tensor], other: Any) -> Any:
    """Call one of torch's foreach functions, which do not accept empty lists."""
    with torch.no_grad():
        return function(tensors, other) if tensors else []


class _Other:
    """A buffer of a user-defined layer, which the forward pass may change or replace."""

    def __init__(self, module: nn.Module, name: str, index: int) -> None:
        tensor = module._buffers[name]
        assert tensor is not None
        self.index, self.tensor = index, tensor
        self._module, self._name = module, name

    @torch.no_grad()
    def take(self, start: Tensor, found: Contribution) -> None:
        """Store the change made by the last pass in a contribution, and undo it."""
        now = self._module._buffers[self._name]
        if now is None or now.shape != self.tensor.shape or torch.equal(now, start):
            return
        if now.is_floating_point():
            found.changes[self.index] = now.detach() - start
        else:
            found.values[self.index] = now.detach().clone()
        self._module._buffers[self._name] = self.tensor
        self.tensor.copy_(start)


def _held(modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    seen = set[int]()
    for module in modules:
        for name, tensor in module._buffers.items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield module, name
