"""Planning and proving are bounded: what exceeds the limits is left alone, with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from irepdeploy.errors import ModelError
from irepdeploy.onnx_collapse import collapse, collapser, plan, proof

W = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype(np.float32)
NODES = [
    ("Conv", ["x", "w"], ["a"], {"pads": [1] * 4}),
    ("Conv", ["x", "w"], ["b"], {"pads": [1] * 4}),
    ("Add", ["a", "b"], ["y"], {}),
]


@pytest.fixture
def model(model_of: Any) -> Any:
    return model_of(NODES, {"w": W}, {"x": (1, 4, 16, 16)})


def test_an_ordinary_region(model: Any) -> None:
    assert collapse(model).changed


def test_a_plan_that_takes_too_long(model_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report says so, and contains what was found so far: the sum, but not the 1x1 before one of its branches."""
    nodes = [("Conv", ["x", "u"], ["c"]), ("Conv", ["c", "w"], ["d"], {"pads": [1] * 4}), *NODES[:2]]
    nodes += [("Sum", ["a", "b", "d"], ["y"])]
    model = model_of(nodes, {"w": W, "u": W[:, :, :1, :1]}, {"x": (1, 4, 16, 16)})
    assert collapse(model).operators_after == {"Conv": 1}
    monkeypatch.setattr(plan, "MOST_WORK", 0)
    found = collapse(model)
    assert found.operators_after == {"Conv": 3, "Add": 1}
    assert any("planning took too long" in region.reason for region in found.regions)


@pytest.mark.parametrize(("limit", "value"), [("_LARGEST", 100), ("_MOST_MACS", 100)])
def test_a_proof_that_takes_too_much(model: Any, limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, limit, value)
    monkeypatch.setattr(proof, "_shrink", lambda *args: (0, 0))
    found = collapse(model)
    assert not found.changed
    assert "its proof would take 1,024 numbers and" in found.regions[0].reason


def test_too_many_nodes(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapser, "_MOST_NODES", 2)
    with pytest.raises(
        ModelError, match=r"expected at most 2 nodes to collapse, got 3 \(export it with --no-collapse\)"
    ):
        collapse(model)
