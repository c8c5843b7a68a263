"""Parse the options of an export."""

from __future__ import annotations

import pytest

from irepdeploy.errors import InputError
from irepdeploy.export.request.parse import batch_range


def test_batches() -> None:
    assert batch_range("1:8:32") == (1, 8, 32) and batch_range("4") == (4, 4, 4)


@pytest.mark.parametrize("text", ["", "1:2", "2:1:3", "0:1:2", "1:2:3:4", "a:b:c", "1:2:", "-1:2:3"])
def test_not_a_range(text: str) -> None:
    with pytest.raises(InputError, match="MIN:OPT:MAX"):
        batch_range(text)
