"""The energy of fused kernels by tap, and the share of each branch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError
from irepdeploy.plots.architecture_view import in_column_order

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

__all__ = ["FIXED", "KernelEnergy", "NetworkKernels", "kernel_energy", "network_kernels", "read_kernels"]

FIXED = "fixed"


@dataclass(frozen=True)
class KernelEnergy:
    """The energy of a convolution's fused kernel, which is the sum of squares of its weights.

    Args:
        taps: Share (K, K) of each tap. The shares add up to 1, or are all 0 if the weights are.
        shares: Share <W_branch, W> / <W, W> of each operation in the fused kernel W, by name, fixed operation first.
            The shares add up to 1; an operation with a negative share works against the others. {} if unknown.
    """

    taps: np.ndarray[Any, Any]
    shares: Mapping[str, float]

    @property
    def cross(self) -> float:
        """The share of the middle row and column, ACNet's kernel skeleton; (2K - 1) / K^2 if all taps are equal."""
        middle = len(self.taps) // 2
        return float(self.taps[middle].sum() + self.taps[:, middle].sum() - self.taps[middle, middle])


@dataclass(frozen=True)
class NetworkKernels:
    """The energies of a network's KxK convolutions; `untrained` explains why the weights are meaningless, or is ""."""

    label: str
    layers: Mapping[str, KernelEnergy]
    untrained: str = ""

    @property
    def operations(self) -> tuple[str, ...]:
        """The names of the fixed operation and of all branches that have a share in any layer."""
        names = {name for layer in self.layers.values() for name in layer.shares}
        return (FIXED, *in_column_order(names - {FIXED})) if names else ()


def kernel_energy(parts: Mapping[str, Tensor]) -> KernelEnergy:
    """Return the energy of the sum of the kernels (C_out, C_in/groups, K, K), and the share of each kernel."""
    wide = {name: kernel.detach().double() for name, kernel in parts.items()}
    whole = sum(wide.values())
    assert not isinstance(whole, int)
    energy = (whole * whole).sum((0, 1))
    total = float(energy.sum())
    shares = {name: float((kernel * whole).sum()) / total if total else 0.0 for name, kernel in wide.items()}
    return KernelEnergy((energy / total if total else energy).cpu().numpy(), shares)


def network_kernels(model: nn.Module, label: str, untrained: str = "") -> NetworkKernels:
    """Return the energies of all RepBlocks or, if there are none, of all square convolutions of 3x3 or more."""
    from torch import nn

    from irepdeploy.reparam.block import RepBlock

    modules = dict(model.named_modules())
    found = {}
    for name, module in modules.items():
        if isinstance(module, RepBlock):
            parts = {FIXED: module.fixed.equivalent()[0]}
            found[name] = kernel_energy(parts | {key: module.branch_equivalent(key)[0] for key in module.active})
    if not found:
        for name, module in modules.items():
            if isinstance(module, nn.Conv2d) and module.kernel_size[0] == module.kernel_size[1] >= 3:
                found[name] = KernelEnergy(kernel_energy({"": module.weight}).taps, {})
    if not found:
        raise InputError("no convolution of 3x3 or more", where=label)
    return NetworkKernels(label, found, untrained)


def read_kernels(
    source: str | os.PathLike[str], label: str, *, model_factory: Callable[[], nn.Module] | None = None
) -> NetworkKernels:
    """Return the kernel energies of a checkpoint, a training folder, or a network by name."""
    from irepdeploy.network.source import open_source, with_blocks
    from irepdeploy.plots.feature_maps import checkpoint_in, why_untrained

    opened = open_source(checkpoint_in(source), model_factory)
    # A plain network is deployed with its batch normalization folded, so fold it here too.
    return network_kernels(with_blocks(opened.model) or opened.model, label, why_untrained(opened))
