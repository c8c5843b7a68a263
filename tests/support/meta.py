"""Networks without values, for shapes and counts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

__all__ = ["meta"]


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Build networks without weights: shapes and counts only."""
    # Without this, most of the build time on this device goes into initializers that draw no values.
    for module in (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase):
        monkeypatch.setattr(module, "reset_parameters", lambda self: None)
    for name in ("normal_", "xavier_uniform_", "kaiming_uniform_", "zeros_", "constant_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **named: tensor)
    with torch.device("meta"):
        yield
