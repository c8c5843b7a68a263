"""RepBlock: a fixed operation and the branches beside it (Eq. 6 and 7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.errors import ArchitectureError
from irepdeploy.reparam import algebra
from irepdeploy.reparam.branches import Branch, branch_class
from irepdeploy.reparam.geometry import Geometry
from irepdeploy.reparam.normalisation import NORMS, Norm, scale_shift

__all__ = ["FixedOperation", "RepBlock", "is_marked"]

_OF_CONV = frozenset(
    ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
)
# Set on every module of a branch, of which tracing keeps the innermost ones: they show that it dissolved a block. State
# dicts do not contain it.
_MARK = "irepdeploy_branch"


class FixedOperation(nn.Module):
    """The KxK convolution that is always there, and its batch normalisation, if any."""

    def __init__(self, conv: nn.Conv2d, bn: Norm | None) -> None:
        super().__init__()
        self.conv = conv
        self.bn = bn

    def forward(self, x: Tensor, *, padded: bool = False) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H', W'); `padded`: x includes the padding already."""
        conv = self.conv
        if padded:
            y = F.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
        else:
            y = conv(x)
        return y if self.bn is None else self.bn(y)

    def equivalent(self) -> tuple[Tensor, Tensor]:
        """Return kernel (C_out, C_in/groups, K, K) and bias (C_out,), the batch normalisation folded in."""
        kernel, bias = self.conv.weight, self.conv.bias
        if self.bn is not None:
            return algebra.fold_scale_shift(kernel, bias, *scale_shift(self.bn))
        return kernel, kernel.new_zeros(kernel.shape[0]) if bias is None else bias


class RepBlock(nn.Module):
    """fixed(x) + sigmoid(beta) * sum over active branches of sigmoid(alpha) * branch(x).

    Args:
        conv: The fixed convolution, 3x3, 5x5 or 7x7; the block takes it over.
        bn: The batch normalisation behind it, or None. With a SyncBatchNorm the branches get SyncBatchNorms too.
        branches: Names that `branch_class` knows, each possible beside this convolution.
        scaled: Whether alpha and beta exist; without them every factor is 1. They start at 0: each sigmoid is 0.5.

    Raises:
        ArchitectureError: A branch is unknown, or not possible here.
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
        # One scalar per branch, so that an optimizer skips those that were inactive in a step.
        self.alpha = nn.ParameterDict()
        self.beta: nn.Parameter | None = None
        if scaled and branches:
            self.alpha.update({name: nn.Parameter(conv.weight.new_zeros(())) for name in branches})
            self.beta = nn.Parameter(conv.weight.new_zeros(()))
        self._active: tuple[str, ...] = tuple(branches)
        # Probability of dropping a branch for an image, in train mode (Larsson et al. 2016; DARTS).
        self.drop_path = 0.0

    @property
    def scaled(self) -> bool:
        """Whether alpha and beta scale the branches."""
        return self.beta is not None

    @property
    def active(self) -> tuple[str, ...]:
        """The active branches: the mask of a subnet."""
        return self._active

    @active.setter
    def active(self, names: Iterable[str]) -> None:
        chosen = set(names)
        unknown = chosen - set(self.branches)
        if unknown:
            raise ArchitectureError(f"this block has no such branch: {', '.join(sorted(unknown))}")
        self._active = tuple(name for name in self.branches if name in chosen)

    def factor(self, name: str) -> Tensor | None:
        """Return sigmoid(beta) * sigmoid(alpha) of a branch, or None if the block is not scaled."""
        if self.beta is None:
            return None
        return torch.sigmoid(self.beta) * torch.sigmoid(self.alpha[name])

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H', W')."""
        padded = self.geometry.padding_mode != "zeros"
        if padded:
            x = self.geometry.pad(x)
        out: Tensor = self.fixed(x, padded=padded)
        for name in self._active:
            y = self.branches[name](x, self.factor(name))
            # In place: nothing else holds the sum, and no branch needs it for its gradient.
            out += _dropped(y, self.drop_path) if self.training and self.drop_path else y
        return out

    def branch_equivalent(self, name: str) -> tuple[Tensor, Tensor]:
        """Return kernel and bias of one branch, times its factor (Section 3.4); they do not depend on the mask."""
        branch = self.branches[name]
        assert isinstance(branch, Branch)
        kernel, bias = branch.equivalent()
        factor = self.factor(name)
        return (kernel, bias) if factor is None else (kernel * factor, bias * factor)

    def equivalent(self) -> tuple[Tensor, Tensor]:
        """Return kernel (C_out, C_in/groups, K, K) and bias (C_out,) of the active block in eval mode."""
        kernel, bias = self.fixed.equivalent()
        if self.fixed.bn is None:
            # These are the parameters themselves, which must not change.
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
            # Attributes that do not concern the weights are those of the convolution.
            if name in _OF_CONV:
                return getattr(self.fixed.conv, name)
            raise

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"active={list(self._active)}, scaled={self.scaled}"


def is_marked(module: nn.Module) -> bool:
    """Tell whether a module was made as a part of a branch."""
    return _MARK in vars(module)


def _dropped(x: Tensor, probability: float) -> Tensor:
    """Set some images of (N, C, H, W) to 0, and scale the others so that the mean stays."""
    kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= probability
    return x * (kept.to(x.dtype) / (1 - probability))
