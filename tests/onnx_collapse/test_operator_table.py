"""The table of operators: an operator added to it collapses, as described in docs/add-an-operator.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from irepdeploy.onnx_collapse import collapse
from irepdeploy.onnx_collapse.operators import OPERATORS

PAGE = Path(__file__).parents[2] / "docs" / "add-an-operator.md"


@pytest.fixture
def documented() -> Iterator[dict[str, Any]]:
    """Run the code of the page and return its names; the table is restored afterwards."""
    table = dict(OPERATORS)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    yield names
    OPERATORS.clear()
    OPERATORS.update(table)


def model(model_of: Any, axes: list[int]) -> Any:
    rng = np.random.default_rng(0)
    nodes = [
        ("Conv", ["x", "w", "b"], ["a"], {"pads": [1, 1, 1, 1]}),
        ("ReduceMean", ["a"], ["y"], {"axes": axes}),
        ("Relu", ["y"], ["z"]),
    ]
    constants = {"w": rng.standard_normal((8, 4, 3, 3)), "b": rng.standard_normal(8)}
    return model_of(nodes, constants, {"x": (1, 4, 9, 8)}, ["z"])


def test_an_operator_of_the_page_collapses(
    documented: dict[str, Any], model_of: Any, largest_difference: Callable[..., float]
) -> None:
    given = model(model_of, [1])
    found = collapse(given)
    assert found.operators_after == {"Conv": 1, "Relu": 1} and largest_difference(given, found.content) < 1e-6
    assert found.regions[0].macs_before == 9 * 8 * 8 * (36 + 1) and found.regions[0].macs_after == 9 * 8 * 36
    assert not collapse(model(model_of, [2])).changed


def test_it_is_not_known_without_its_line(model_of: Any) -> None:
    assert not collapse(model(model_of, [1])).changed


def test_a_wrong_rule_fails_its_proof(
    documented: dict[str, Any], model_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documented["ReduceMean"], "evaluate", lambda self, inputs, attributes: inputs[0][:, :1])
    found = collapse(model(model_of, [1]))
    assert not found.changed and "its proof failed" in found.regions[0].reason
