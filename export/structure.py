"""The structure of a network as it is exported, found in memory: no file is written."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import nn

from irepdeploy.errors import ModelError
from irepdeploy.network.source import open_source, with_blocks
from irepdeploy.onnx_graph.structure_digest import structure_digest
from irepdeploy.reparam.fuse import fuse

from .target.target import target_of
from .writer.torch_exporter import write_onnx

__all__ = ["network_digest"]


def network_digest(
    source: str | os.PathLike[str] | nn.Module,
    *,
    model_factory: Callable[[], nn.Module] | None = None,
    batch: int | None = 1,
) -> str:
    """`structure_digest` of the ONNX that a network is exported as, its branches and batch normalisation fused.

    So a network with branches and the plain one that it becomes have one digest.

    Args:
        source: the name of a network, a checkpoint, or a network in eval mode.
        model_factory: builds the class of a foreign checkpoint.
        batch: of the inputs; None: free.

    Raises:
        InputError: no such network or file, or one that cannot be fused or written.
        ModelError: it does not say what it reads.
    """
    opened = open_source(source, model_factory)
    origin = opened.origin
    if not origin.specs:
        raise ModelError(
            "it does not say what inputs it takes",
            where=opened.label,
            hint="irepdeploy.save(net, path, input_shape=(C, H, W))",
        )
    blocks = with_blocks(opened.model)
    fused = opened.model if blocks is None else fuse(blocks, prove=False)
    specs = [spec._replace(shape=(batch, *spec.shape[1:])) for spec in origin.specs]
    written = write_onnx(fused, specs, origin.output_names, target=target_of("ort"))
    return structure_digest(written.model)
