"""RepBlock: a fixed operation and its branches (Eq. 6 and 7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from irepdeploy.errors import ArchitectureError
from irepdeploy.reparam import algebra
from irepdeploy.reparam.branches import BRANCHES, Branch, scale_shift
from irepdeploy.reparam.geometry import Geometry

__all__ = ["FixedOperation", "RepBlock"]


class FixedOperation(nn.Module):
    """The 3x3 convolution that is always there, with its batch normalisation where it has one."""

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.conv = conv
        self.bn = bn

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y if self.bn is None else self.bn(y)

    def equivalent(self) -> tuple[Tensor, Tensor]:
        """Kernel (C_out, C_in/groups, 3, 3) and bias (C_out,) with the batch normalisation folded in."""
        kernel, bias = self.conv.weight, self.conv.bias
        if self.bn is not None:
            return algebra.fold_scale_shift(kernel, bias, *scale_shift(self.bn))
        return kernel, kernel.new_zeros(kernel.shape[0]) if bias is None else bias


class RepBlock(nn.Module):
    """fixed(x) + sigmoid(beta) * sum over active branches of sigmoid(alpha) * branch(x).

    Args:
        conv: the fixed 3x3 convolution; the block takes it over.
        bn: the batch normalisation that follows it, or None.
        branches: names out of `BRANCHES`, each possible for this convolution.
        scaled: whether alpha and beta exist; without them every factor is 1. They start at 0: each sigmoid is a half.

    Raises:
        ArchitectureError: a branch is unknown, or cannot stand here.
    """

    def __init__(
        self, conv: nn.Conv2d, bn: nn.BatchNorm2d | None, branches: Sequence[str], *, scaled: bool = True
    ) -> None:
        super().__init__()
        self.geometry = Geometry.of(conv)
        self.fixed = FixedOperation(conv, bn)
        self.branches = nn.ModuleDict()
        for name in branches:
            if name not in BRANCHES:
                raise ArchitectureError(f"unknown branch {name!r}", hint=f"one of {', '.join(BRANCHES)}")
            reason = BRANCHES[name].impossible(self.geometry)
            if reason is not None:
                raise ArchitectureError(f"branch {name!r} cannot stand here: {reason}")
            self.branches[name] = BRANCHES[name](self.geometry).to(conv.weight)
        if bn is not None:
            for module in self.branches.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps, module.momentum = bn.eps, bn.momentum
        # One scalar a branch, so that an optimizer leaves alone what took no part in a step.
        self.alpha = nn.ParameterDict()
        self.beta: nn.Parameter | None = None
        if scaled and branches:
            self.alpha.update({name: nn.Parameter(conv.weight.new_zeros(())) for name in branches})
            self.beta = nn.Parameter(conv.weight.new_zeros(()))
        self._active: tuple[str, ...] = tuple(branches)

    @property
    def scaled(self) -> bool:
        """Whether the branches are weighed by alpha and beta."""
        return self.beta is not None

    @property
    def active(self) -> tuple[str, ...]:
        """The branches that take part: the mask of a subnet."""
        return self._active

    @active.setter
    def active(self, names: Iterable[str]) -> None:
        chosen = set(names)
        unknown = chosen - set(self.branches)
        if unknown:
            raise ArchitectureError(f"no such branch in this block: {', '.join(sorted(unknown))}")
        self._active = tuple(name for name in self.branches if name in chosen)

    def factor(self, name: str) -> Tensor | None:
        """sigmoid(beta) * sigmoid(alpha) of a branch, or None where nothing is weighed."""
        if self.beta is None:
            return None
        return torch.sigmoid(self.beta) * torch.sigmoid(self.alpha[name])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fixed(x)
        for name in self._active:
            out = out + self.branches[name](x, self.factor(name))
        return out

    def branch_equivalent(self, name: str) -> tuple[Tensor, Tensor]:
        """Kernel and bias of one branch, its factor applied (Section 3.4); they do not depend on the mask."""
        branch = self.branches[name]
        assert isinstance(branch, Branch)
        kernel, bias = branch.equivalent()
        factor = self.factor(name)
        return (kernel, bias) if factor is None else (kernel * factor, bias * factor)

    def equivalent(self) -> tuple[Tensor, Tensor]:
        """Kernel (C_out, C_in/groups, 3, 3) and bias (C_out,) of the block with its active branches, in eval mode."""
        kernel, bias = self.fixed.equivalent()
        for name in self._active:
            branch_kernel, branch_bias = self.branch_equivalent(name)
            kernel = kernel + branch_kernel
            bias = bias + branch_bias
        return kernel, bias

    def extra_repr(self) -> str:
        return f"active={list(self._active)}, scaled={self.scaled}"
