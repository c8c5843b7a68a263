"""CastInputs: a network whose floating-point inputs are cast to the type of its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["CastInputs"]


class CastInputs(nn.Module):
    """A network that takes float32 whatever its weights are, and returns float32.

    Args:
        model: A network in eval mode.
        kind: The type that it takes.
    """

    def __init__(self, model: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.model, self._kind = model, kind
        self.eval()

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Run the network."""
        return self.model(*(value.to(self._kind) if value.is_floating_point() else value for value in inputs))
