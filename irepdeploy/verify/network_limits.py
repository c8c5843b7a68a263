"""The token ids that a torch network takes: those of the embeddings that read its inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from irepdeploy.verify.signature import Signature

__all__ = ["network_limits"]


def network_limits(model: nn.Module, signature: Signature) -> dict[str, tuple[int, int]]:
    """Run the network once on zeros and ones, and return the sizes of the embeddings that read an input, by name."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    whole = [spec for spec in signature.inputs if not spec.is_float]
    if not tables or not whole:
        return {}
    sizes: dict[str, list[int]] = {}
    kind = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    fed = {}
    for place, spec in enumerate(signature.inputs):
        shape = [1 if size is None else size for size in spec.shape]
        values = torch.from_numpy(spec.random(1, place, place)).reshape(shape)
        fed[spec.name] = values.to(kind) if spec.is_float else values

    def read(module: Any, args: tuple[Any, ...]) -> None:
        for spec in whole:
            same = args and isinstance(args[0], torch.Tensor) and args[0].numel() == fed[spec.name].numel()
            if same and torch.equal(args[0].detach().cpu().long().reshape(-1), fed[spec.name].long().reshape(-1)):
                sizes.setdefault(spec.name, []).append(module.num_embeddings)

    handles = [table.register_forward_pre_hook(read) for table in tables]
    try:
        with torch.inference_mode():
            model(*fed.values())
    except Exception:  # a foreign forward may raise anything; the comparison tells what
        return {}
    finally:
        for handle in handles:
            handle.remove()
    return {name: (0, min(found) - 1) for name, found in sizes.items()}
