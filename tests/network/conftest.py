from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def meta() -> Iterator[None]:
    """Networks without weights: shapes and counts alone."""
    with torch.device("meta"):
        yield
