from __future__ import annotations

import pytest

from irepdeploy.bench.settings import batch_sizes
from irepdeploy.errors import InputError


def test_batch_sizes() -> None:
    assert batch_sizes(None) == ()
    assert batch_sizes("8, 1,64,8") == (1, 8, 64)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", "1;2", "²"])
def test_batch_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match="--batches"):
        batch_sizes(text)
