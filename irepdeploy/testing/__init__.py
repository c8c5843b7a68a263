"""Checks for tests of users."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from irepdeploy.reparam.comparator import Tolerance
    from irepdeploy.testing.branch_contract import BranchContract
    from irepdeploy.testing.runner_contract import RunnerContract
    from irepdeploy.testing.task_contract import TaskContract

__all__ = ["BranchContract", "RunnerContract", "TaskContract", "assert_equivalent"]

_CONTRACTS = {
    "BranchContract": "irepdeploy.testing.branch_contract",
    "RunnerContract": "irepdeploy.testing.runner_contract",
    "TaskContract": "irepdeploy.testing.task_contract",
}


def __getattr__(name: str) -> Any:
    # The contracts need pytest and hypothesis, which assert_equivalent does not.
    if name not in _CONTRACTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_CONTRACTS[name]), name)


def assert_equivalent(
    a: str | os.PathLike[str] | nn.Module,
    b: str | os.PathLike[str] | nn.Module,
    inputs: Any = None,
    tolerance: str | Tolerance = "float32",
    *,
    model: Callable[[], nn.Module] | None = None,
) -> None:
    """Assert that two models, each a network in eval mode, a checkpoint or an ONNX file, have the same outputs.

    Args:
        a: The reference.
        b: The other model.
        inputs: (N, C, H, W) float32, as a tuple or by name for several inputs, or a path for `read_inputs`; seeded
            random inputs are compared as well. By default real images are used, which need a known (C, H, W).
        tolerance: A name in `TOLERANCES`, or a Tolerance.
        model: Builds the class of a checkpoint of your own network.

    Raises:
        AssertionError: The outputs differ; the message has the error, the tolerance and, for two networks, the first
            layer that differs.
        InputError: The models cannot be compared.
    """
    from irepdeploy.verify.equivalence import verify_models

    result = verify_models(a, b, inputs, model_factory=model, tolerance=tolerance)
    if not result.ok:
        raise AssertionError(f"{result.a} and {result.b} are not equivalent: {result.comparison.reason}")
