"""Helpers for users' own tests."""

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
    # Import the contracts lazily, because they need pytest and hypothesis, unlike assert_equivalent.
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
    """Assert that two models have the same outputs.

    Each model is a network in eval mode, or the path of a checkpoint or an ONNX file.

    Args:
        a: The reference.
        b: The other model.
        inputs: Inputs (N, C, H, W) float32, for several inputs as a tuple or by name; or a path for `read_inputs`.
            Seeded random inputs are compared as well. Default: real images, which requires a known input shape.
        tolerance: A name in `TOLERANCES`, or a Tolerance.
        model: Function that builds the network, for a checkpoint of your own class.

    Raises:
        AssertionError: The outputs differ. The message contains the error, the tolerance and, for two networks, the
            first layer that differs.
        InputError: The models cannot be compared.
    """
    from irepdeploy.verify.equivalence import verify_models

    result = verify_models(a, b, inputs, model_factory=model, tolerance=tolerance)
    if not result.ok:
        raise AssertionError(f"{result.a} and {result.b} are not equivalent: {result.comparison.reason}")
