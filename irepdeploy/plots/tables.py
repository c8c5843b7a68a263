"""The data of a network's pictures as tables for a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError
from irepdeploy.plots.arch_weights import PAIRS, ArchWeights, network_weights
from irepdeploy.plots.architecture_view import in_column_order
from irepdeploy.plots.kernel_energy import NetworkKernels, network_kernels

if TYPE_CHECKING:
    from torch import nn

    from irepdeploy.reparam.architecture import Architecture

__all__ = ["NetworkTable", "arch_weights_table", "kernel_table", "network_tables"]


@dataclass(frozen=True)
class NetworkTable:
    """A table with a row per layer: `columns` and `rows` as text, and `figures` for JSON under the name `key`."""

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    figures: Any


def kernel_table(found: NetworkKernels) -> NetworkTable:
    """Return the energy of each fused kernel, for the middle row and column, by tap, and by operation."""
    operations = found.operations
    rows = [
        [
            name,
            f"{layer.cross:.0%}",
            " / ".join(" ".join(f"{100 * share:.0f}" for share in row) for row in layer.taps),
            *(f"{layer.shares[part]:.0%}" if part in layer.shares else "-" for part in operations),
        ]
        for name, layer in found.layers.items()
    ]
    notes = ["cross: middle row and column, 56% of a 3x3 with equal taps; taps: row / row / row, %"]
    if operations:
        notes.append("by operation: its share in the fused kernel; negative ones work against the others")
    if found.untrained:
        notes.append(f"untrained: {found.untrained}")
    figures = {
        name: {"cross": layer.cross, "taps": layer.taps.tolist(), "shares": dict(layer.shares)}
        for name, layer in found.layers.items()
    }
    return NetworkTable(
        "kernels", "Energy of the fused kernels", ["layer", "cross", "taps", *operations], rows, notes, figures
    )


def arch_weights_table(found: ArchWeights) -> NetworkTable:
    """Return sigmoid(beta) * sigmoid(alpha) of each branch, and the differences of `PAIRS`."""
    branches = in_column_order({name for row in found.weights for name in row})
    pairs = [f"{first} - {second}" for first, second in PAIRS]
    rows = [
        [
            layer,
            *(f"{weights[name]:.4f}" if name in weights else "-" for name in branches),
            *("-" if value is None else f"{value:+.4f}" for value in differences),
        ]
        for layer, weights, differences in zip(found.layers, found.weights, found.differences, strict=True)
    ]
    figures = {
        layer: {"weights": dict(weights), "differences": dict(zip(pairs, differences, strict=True))}
        for layer, weights, differences in zip(found.layers, found.weights, found.differences, strict=True)
    }
    title = "Weights of the branches: sigmoid(beta) sigmoid(alpha)"
    return NetworkTable("arch_weights", title, ["layer", *branches, *pairs], rows, (), figures)


def network_tables(
    source: str | os.PathLike[str],
    model_factory: Callable[[], nn.Module] | None = None,
    architecture: Architecture | None = None,
    seed: int = 0,
    *,
    kernels: bool = True,
    arch_weights: bool = True,
) -> list[NetworkTable]:
    """Return the requested tables for a checkpoint or a network by name.

    Args:
        source: Path of a checkpoint, or name of a network.
        model_factory: Function that builds the network, for a checkpoint of the user's own class.
        architecture: Architecture whose branches are inserted first; None for none.
        seed: Seed of random weights.
        kernels: Whether to return the table of kernel energies.
        arch_weights: Whether to return the table of branch weights.

    Raises:
        InputError: The source is an ONNX model, or does not have the requested data.
    """
    from irepdeploy.network.source import open_source, with_blocks
    from irepdeploy.plots.feature_maps import why_untrained

    if Path(source).suffix.lower() == ".onnx":
        raise InputError(
            "an ONNX model does not record how its kernels were fused",
            where=source,
            hint="name the checkpoint it was exported from",
        )
    opened = open_source(source, model_factory, seed, architecture)
    found = []
    if arch_weights:
        found.append(arch_weights_table(network_weights(opened.model, opened.label)))
    if kernels:
        model = with_blocks(opened.model) or opened.model
        found.append(kernel_table(network_kernels(model, opened.label, why_untrained(opened))))
    return found
