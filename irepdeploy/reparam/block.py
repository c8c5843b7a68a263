"""RepBlock: a fixed operation and its parallel branches (Eq. 6 and 7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.errors import ArchitectureError
from irepdeploy.reparam import algebra
from irepdeploy.reparam.branches import Branch, branch_class
from irepdeploy.reparam.geometry import Geometry
from irepdeploy.reparam.merging import Term, merge
from irepdeploy.reparam.normalization import NORMS, Norm, has_hooks, scale_shift, uses_batch, with_moments
from irepdeploy.reparam.sample import RUNNING, Sample, Statistics, sample_size, tap_slice

__all__ = ["STEPS", "FixedOperation", "RepBlock", "Step", "is_marked"]

# How a block computes its output in train mode.
Step = Literal["exact", "merged"]
STEPS: tuple[Step, ...] = ("exact", "merged")

_OF_CONV = frozenset(
    ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
)
# Set as an attribute on every module of a branch. Tracing keeps the innermost modules, and the mark on them shows that
# their block was dissolved. State dicts do not contain it.
_MARK = "irepdeploy_branch"


class FixedOperation(nn.Module):
    """The KxK convolution that is always present, and its batch normalization, if any."""

    def __init__(self, conv: nn.Conv2d, bn: Norm | None) -> None:
        super().__init__()
        self.conv = conv
        self.bn = bn

    def forward(self, x: Tensor, *, padded: bool = False) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W'); if `padded`, `x` already includes the padding."""
        conv = self.conv
        if padded:
            y = F.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
        else:
            y = conv(x)
        return y if self.bn is None else self.bn(y)

    def equivalent(self) -> tuple[Tensor, Tensor]:
        """Return kernel (C_out, C_in/groups, K, K) and bias (C_out,), with the batch normalization folded in."""
        kernel, bias = self.conv.weight, self.conv.bias
        if self.bn is not None:
            return algebra.fold_scale_shift(kernel, bias, *scale_shift(self.bn))
        return kernel, kernel.new_zeros(kernel.shape[0]) if bias is None else bias

    def term(self, statistics: Statistics) -> Term:
        """Return the term that this operation contributes to a merged kernel."""
        kernel, bias, every = self.conv.weight, self.conv.bias, slice(None)
        if self.bn is None:
            shift = kernel.new_zeros(kernel.shape[0])
            return Term(kernel, bias, torch.ones_like(shift), shift, every, every)
        return Term(kernel, bias, *statistics.of_taps(self.bn, kernel, "all", "all", bias), every, every)


class RepBlock(nn.Module):
    """A fixed convolution with parallel branches that fuses exactly into one convolution.

    Computes ``fixed(x) + sigmoid(beta) * sum over active branches of sigmoid(alpha) * branch(x)``. In eval mode every
    branch runs separately; `fuse` is proved against that output. In train mode the attribute `step` selects how the
    sum is computed:

    - "exact": Every branch runs separately. If no normalization uses batch statistics (all are in eval mode), the
      kernels are merged first and a single convolution runs, which gives the same result at a lower cost. This shortcut
      is not taken with drop-path, which drops branches per image, with hooks on parts of the block, or on maps with
      fewer positions than channels.
    - "merged": One convolution runs in every step. The statistics of each branch come from a `Sample` of the batch.
      Hooks on parts of the block do not run, and drop-path drops a branch for a whole step. A block with so few output
      positions that most of them would be sampled takes the exact step, unless its ranks share statistics.

    The attribute `sample` is the number of output positions to sample; None chooses it from the number of channels
    (`sample_size`).

    Args:
        conv: The fixed convolution, 3x3, 5x5 or 7x7. The block takes ownership of it.
        bn: The batch normalization that follows it, or None. With a SyncBatchNorm the branches use SyncBatchNorm too.
        branches: Names known to `branch_class`, each possible beside this convolution.
        scaled: Whether the block has alpha and beta. They start at 0, where each sigmoid is 0.5. Without them every
            factor is 1.

    Raises:
        ArchitectureError: A branch is unknown, or not possible beside this convolution.
    """

    def __init__(self, conv: nn.Conv2d, bn: Norm | None, branches: Sequence[str], *, scaled: bool = True) -> None:
        super().__init__()
        self.geometry = Geometry.of(conv)
        self.fixed = FixedOperation(conv, bn)
        self.branches = nn.ModuleDict()
        for name in branches:
            reason = branch_class(name).impossible(self.geometry)
            if reason is not None:
                raise ArchitectureError(f"branch {name!r} is not possible here: {reason}")
            self.branches[name] = branch_class(name)(self.geometry.behind_padding).to(conv.weight)
        if bn is not None:
            for module in self.branches.modules():
                if isinstance(module, NORMS):
                    module.eps, module.momentum = bn.eps, bn.momentum
            if isinstance(bn, nn.SyncBatchNorm):
                self.branches = nn.SyncBatchNorm.convert_sync_batchnorm(self.branches, bn.process_group)
        for branch in self.branches.values():
            for module in branch.modules():
                setattr(module, _MARK, True)
        # One parameter per branch, so that an optimizer skips the branches that were inactive in a step.
        self.alpha = nn.ParameterDict()
        self.beta: nn.Parameter | None = None
        if scaled and branches:
            self.alpha.update({name: nn.Parameter(conv.weight.new_zeros(())) for name in branches})
            self.beta = nn.Parameter(conv.weight.new_zeros(()))
        self._active: tuple[str, ...] = tuple(branches)
        self.drop_path = 0.0
        self.step: Step = "exact"
        self.sample: int | None = None

    @property
    def scaled(self) -> bool:
        """Whether alpha and beta scale the branches."""
        return self.beta is not None

    @property
    def drop_path(self) -> float:
        """Probability of dropping a branch for one image in train mode (Larsson et al. 2016; DARTS)."""
        return float(self._drop_path)

    @drop_path.setter
    def drop_path(self, probability: float) -> None:
        # Stored as a tensor because torch.compile would recompile the block for every new number.
        self._drop_path = torch.tensor(float(probability), dtype=torch.float64)
        self._drops = probability > 0

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the active branches, which are the mask of a subnet."""
        return self._active

    @active.setter
    def active(self, names: Iterable[str]) -> None:
        chosen = set(names)
        unknown = chosen - set(self.branches)
        if unknown:
            raise ArchitectureError(f"this block has no such branch: {', '.join(sorted(unknown))}")
        self._active = tuple(name for name in self.branches if name in chosen)

    def factor(self, name: str) -> Tensor | None:
        """Return ``sigmoid(beta) * sigmoid(alpha)`` for the branch `name`, or None if the block is not scaled."""
        if self.beta is None:
            return None
        return torch.sigmoid(self.beta) * torch.sigmoid(self.alpha[name])

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        padded = self.geometry.padding_mode != "zeros"
        if padded:
            x = self.geometry.pad(x)
        statistics = self._merged_by(x) if self.training and self._active else None
        if statistics is not None:
            return self._merged(x, statistics)
        out: Tensor = self.fixed(x, padded=padded)
        for name in self._active:
            y = self.branches[name](x, self.factor(name))
            # In place is safe: nothing else holds the sum, and no branch needs it for its gradient.
            out += _dropped(y, self._drop_path) if self.training and self._drops else y
        return out

    def _merged_by(self, x: Tensor) -> Statistics | None:
        """Return the statistics with which to merge the kernels, or None if every branch runs separately."""
        live = any(uses_batch(norm) for norm in self._norms())
        if self.step == "exact" and (live or self._drops):
            return None
        # A tracer passes a proxy, and must see the branches; torch reports wrong shapes with its own messages.
        if not isinstance(x, Tensor) or x.dim() != 4:
            return None
        geometry = self.geometry.behind_padding
        height, width = geometry.output_size((x.shape[2], x.shape[3]))
        if min(height, width) < 1:
            return None
        positions = len(x) * height * width
        if not live:
            # With fewer positions, merging the kernels costs more than it saves.
            few = positions < geometry.in_channels // geometry.groups
            watched = any(has_hooks(part) for part in self.modules() if part is not self)
            return None if few or (watched and self.step == "exact") else RUNNING
        count = sample_size(positions, geometry.out_channels) if self.sample is None else self.sample
        # Ranks that share statistics must agree, regardless of the sizes of their batches.
        shared = any(isinstance(norm, nn.SyncBatchNorm) for norm in self._norms())
        # One value has no variance, and none has no mean: torch handles both.
        if not shared and (positions < 2 or (self.sample is None and 2 * count > positions)):
            return None
        parts = [self.branches[name] for name in self._active]
        return Sample(x, geometry, count, [(part.rows, part.columns) for part in parts if isinstance(part, Branch)])

    def _merged(self, x: Tensor, statistics: Statistics) -> Tensor:
        geometry = self.geometry.behind_padding
        whole = []
        # Kernels are merged in the dtype of the parameters; autocast applies only to the map.
        kind = x.device.type
        # The meta device, on which costs are counted, has no autocast.
        available = torch.amp.autocast_mode.is_autocast_available(kind)
        with torch.autocast(kind, enabled=False) if available else nullcontext():
            terms = [self.fixed.term(statistics)]
            for name in self._active:
                branch, factor = self.branches[name], self.factor(name)
                assert isinstance(branch, Branch)
                if self._drops:
                    kept = (torch.rand((), device=x.device) >= self._drop_path) / (1 - self._drop_path)
                    factor = kept if factor is None else factor * kept.to(factor.dtype)
                found = branch.linear(statistics)
                if found is None:
                    whole.append((branch, factor))
                    continue
                kernel, bias, scale, shift = found
                if factor is not None:
                    scale, shift = scale * factor, shift * factor
                sides = (tap_slice(kind, geometry.kernel) for kind in (branch.rows, branch.columns))
                terms.append(Term(kernel, bias, scale, shift, *sides))
            kernel, bias = merge(terms)
            moments, bn = None, self.fixed.bn
            if isinstance(statistics, Sample) and bn is not None and all(uses_batch(norm) for norm in self._norms()):
                with torch.no_grad():
                    moments = statistics.moments(kernel, bn)
        # The dtype of the parameters, not of the map, which may have the wrong one.
        dtype = self.fixed.conv.weight.dtype
        kernel, bias = kernel.to(dtype), bias.to(dtype)
        whole_map = statistics.batch if isinstance(statistics, Sample) else x
        out = F.conv2d(whole_map, kernel, bias, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        if bn is not None and moments is not None:
            # The sum gets the mean and variance of the whole batch; only each branch's share in it is estimated.
            out = with_moments(out, moments[0] + bias, moments[1], bn)
        for branch, factor in whole:
            out += branch(x, factor)
        return out

    def _norms(self) -> Iterator[Norm]:
        """Yield the normalizations of the active block, starting with those of the fixed operation."""
        for part in (self.fixed, *(self.branches[name] for name in self._active)):
            for module in part.modules():
                if isinstance(module, NORMS):
                    yield module

    def branch_equivalent(self, name: str) -> tuple[Tensor, Tensor]:
        """Return kernel and bias of one branch times its factor (Section 3.4), whether or not it is active."""
        branch = self.branches[name]
        assert isinstance(branch, Branch)
        kernel, bias = branch.equivalent()
        factor = self.factor(name)
        return (kernel, bias) if factor is None else (kernel * factor, bias * factor)

    def equivalent(self) -> tuple[Tensor, Tensor]:
        """Return kernel (C_out, C_in/groups, K, K) and bias (C_out,) of the active block in eval mode."""
        kernel, bias = self.fixed.equivalent()
        if self.fixed.bn is None:
            # Without batch normalization these are the parameters themselves, which must not change.
            kernel, bias = kernel.clone(), bias.clone()
        for name in self._active:
            branch = self.branches[name]
            assert isinstance(branch, Branch)
            branch.add_to(kernel, bias, self.factor(name))
        return kernel, bias

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("weight", "bias"):
                raise AttributeError(
                    f"a RepBlock has no {name!r}: that of its convolution is .fixed.conv.{name}; if the network "
                    "itself reads it, exclude that layer: insert_branches(..., where=...)"
                ) from None
            # Attributes unrelated to the weights are those of the convolution.
            if name in _OF_CONV:
                return getattr(self.fixed.conv, name)
            raise

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"active={list(self._active)}, scaled={self.scaled}"


def is_marked(module: nn.Module) -> bool:
    """Return whether `module` was created as part of a branch."""
    return _MARK in vars(module)


def _dropped(x: Tensor, probability: Tensor) -> Tensor:
    """Set some images of (N, C, H, W) to 0, and scale the others to preserve the mean."""
    kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= probability
    return x * (kept.to(x.dtype) / (1 - probability))
