"""Compute the structure digest of a network without writing a file."""

from __future__ import annotations

import os

from torch import nn

from irepdeploy.errors import ModelError
from irepdeploy.network.source import open_source, with_blocks
from irepdeploy.onnx_collapse import collapse
from irepdeploy.onnx_graph.structure_digest import structure_digest
from irepdeploy.reparam.fuse import fuse

from .target.target import target_of
from .writer.torch_exporter import write_onnx

__all__ = ["network_digest"]


def network_digest(source: str | os.PathLike[str] | nn.Module, *, batch: int | None = 1) -> str:
    """Return the `structure_digest` of the ONNX that a network is exported as.

    Branches and batch normalisation are fused and the rest is collapsed, so that a network with branches and its fused
    form have the same digest. A `batch` of None is dynamic.
    """
    opened = open_source(source)
    origin = opened.origin
    if not origin.specs:
        raise ModelError(
            "the network does not say what inputs it takes",
            where=opened.label,
            hint="irepdeploy.save(net, path, input_shape=(C, H, W))",
        )
    blocks = with_blocks(opened.model)
    fused = opened.model if blocks is None else fuse(blocks, prove=False)
    specs = [spec.with_batch(batch) for spec in origin.specs]
    written = write_onnx(fused, specs, origin.output_names, target=target_of("ort"))
    return structure_digest(collapse(written.model).model)
