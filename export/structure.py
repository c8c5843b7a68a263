"""ONNX of a network in memory, for its structure digest and to explain what would collapse."""

from __future__ import annotations

import os

import onnx
from torch import nn

from irepdeploy.errors import ModelError
from irepdeploy.network.source import open_source, with_blocks
from irepdeploy.onnx_collapse import collapse
from irepdeploy.onnx_graph.structure_digest import structure_digest
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.origin import origin_of

from .network_source import asked_batch, open_network, with_signature
from .request.export_request import ExportRequest
from .target.target import target_of
from .writer.torch_exporter import write_onnx

__all__ = ["network_digest", "written_network"]


def network_digest(source: str | os.PathLike[str] | nn.Module, *, batch: int | None = 1) -> str:
    """Return the `structure_digest` of the exported ONNX of a network.

    Branches and batch normalization are fused and the rest is collapsed, so that a network with branches and its fused
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
    return structure_digest(collapse(_written(opened.model, batch, "ort")).model)


def written_network(request: ExportRequest) -> onnx.ModelProto:
    """Return the ONNX of a fused network as an export writes it, before onnx-simplifier and the collapse."""
    source, _ = with_signature(open_network(request)[0], request.settings)
    batch = asked_batch(request.settings, source.origin.specs) if request.settings.dynamic_batch is None else None
    return _written(source.model, batch, request.target)


def _written(model: nn.Module, batch: int | None, target: str) -> onnx.ModelProto:
    origin = origin_of(model)
    blocks = with_blocks(model)
    fused = model if blocks is None else fuse(blocks, prove=False)
    specs = [spec.with_batch(batch) for spec in origin.specs]
    return write_onnx(fused, specs, origin.output_names, target=target_of(target)).model
