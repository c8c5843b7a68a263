"""CastInputs: a network whose floating-point inputs are cast to the type of its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["CastInputs"]


class CastInputs(nn.Module):
    """A network in eval mode whose floating-point inputs are cast to one dtype.

    Args:
        model: The network.
        kind: Dtype of the inputs of `model`.
    """

    def __init__(self, model: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.model, self._kind = model, kind
        self.eval()

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Cast the floating-point inputs and run the network."""
        return self.model(*(value.to(self._kind) if value.is_floating_point() else value for value in inputs))
