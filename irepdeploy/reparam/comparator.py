"""Compare two networks by their outputs and by the layers they have in common.

Errors and tolerances are defined in `irepdeploy.board.comparison`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from irepdeploy.board.comparison import (
    TOLERANCES,
    Comparison,
    OutputComparison,
    Tolerance,
    compare_outputs,
    relative_error,
)
from irepdeploy.errors import InputError, IrepdeployError
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic
from irepdeploy.runtime.given_inputs import given_tensors
from irepdeploy.runtime.torch_runner import forward_error

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TOLERANCES", "Comparison", "OutputComparison", "Tolerance", "compare", "compare_outputs", "relative_error"]

Array = np.ndarray[Any, Any]


def compare(
    a: nn.Module,
    b: nn.Module,
    inputs: torch.Tensor | Array | Sequence[torch.Tensor | Array] | Mapping[str, torch.Tensor | Array],
    tolerance: Tolerance = TOLERANCES["float32"],
) -> Comparison:
    """Run two networks on the same inputs, and compare their outputs and the layers they have in common.

    Layers are matched by name. Only layers with weights are compared, and only those that compute the same value in
    both networks.

    Args:
        a: The reference network, in eval mode.
        b: The other network, in eval mode.
        inputs: One tensor or array (N, C, H, W). For networks of several inputs a list or tuple with one for each, in
            the order of ``forward``, or a mapping by the names of its parameters.
        tolerance: The largest errors allowed; by default those of float32.

    Returns:
        The comparison, whose `ok` is True if every output is within `tolerance`.

    Raises:
        InputError: A network is in train mode, `inputs` do not fit its ``forward``, or an output cannot be compared.
        ModelError: A network cannot run on the inputs.
        RunError: Memory does not suffice.
    """
    tensors = given_tensors(a, inputs)
    shared = _shared_layers(a, b)
    with exact_arithmetic():
        outputs_a, layers_a = _run(a, tensors, shared)
        outputs_b, layers_b = _run(b, tensors, shared)
    errors = {
        name: relative_error(layers_a[name], layers_b[name])
        for name in shared
        if name in layers_a and name in layers_b and layers_a[name].shape == layers_b[name].shape
    }
    return compare_outputs(outputs_a, outputs_b, tolerance, layers=errors)


def _shared_layers(a: nn.Module, b: nn.Module) -> list[str]:
    from irepdeploy.reparam.block import RepBlock

    def layers(model: nn.Module) -> dict[str, nn.Module]:
        blocks = [name for name, module in model.named_modules() if isinstance(module, RepBlock)]
        inside = tuple(f"{name}." for name in blocks)
        return {
            name: module
            for name, module in model.named_modules()
            if name in blocks or (_has_weights(module) and not name.startswith(inside))
        }

    in_b = layers(b)
    # If a batch normalization was folded into a convolution, the convolution's output is a different value.
    return [name for name, module in layers(a).items() if name and name in in_b and _same_meaning(module, in_b[name])]


def _has_weights(module: nn.Module) -> bool:
    # Layers without weights (ReLU, pools) only propagate an error, and would hide the layer that caused it.
    return next(module.parameters(recurse=False), None) is not None


def _same_meaning(a: nn.Module, b: nn.Module) -> bool:
    from torch import nn

    from irepdeploy.reparam.block import RepBlock

    if type(a) is type(b):
        # A convolution that gained a bias has absorbed its batch normalization.
        return (getattr(a, "bias", None) is None) == (getattr(b, "bias", None) is None)
    return any(isinstance(m, RepBlock) for m in (a, b)) and all(isinstance(m, RepBlock | nn.Conv2d) for m in (a, b))


def _run(
    model: nn.Module, inputs: tuple[torch.Tensor, ...], layers: Sequence[str]
) -> tuple[dict[str, Array], dict[str, Array]]:
    import torch

    if model.training:
        raise InputError("the network is in train mode", where=type(model).__name__, hint="call model.eval() first")
    parameter = next(model.parameters(), None)
    seen: dict[str, Array] = {}
    modules = dict(model.named_modules())

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                seen[name] = _array(output)

        return hook

    # Scripted modules refuse hooks.
    layers = [name for name in layers if not isinstance(modules[name], torch.jit.ScriptModule)]
    handles = [modules[name].register_forward_hook(keep(name)) for name in layers]
    try:
        if parameter is not None:
            # The networks may differ in dtype and device, but receive the same values.
            dtype = parameter.dtype
            inputs = tuple(x.to(parameter.device, dtype if x.is_floating_point() else x.dtype) for x in inputs)
        with torch.inference_mode():
            result = model(*inputs)
    except IrepdeployError:
        raise
    except Exception as error:  # anything that a foreign forward raises
        raise forward_error(error, type(model).__name__) from error
    finally:
        for handle in handles:
            handle.remove()
    return _named(result), seen


def _named(result: Any, name: str = "output") -> dict[str, Array]:
    """Name each returned tensor by its position or key (``output1``, ``scores``, ``scores.0``), and skip None."""
    if isinstance(result, Mapping):
        prefix = "" if name == "output" else f"{name}."
        parts = {f"{prefix}{key}": value for key, value in result.items()}
    elif isinstance(result, list | tuple):
        dot = "" if name == "output" else "."
        parts = {f"{name}{dot}{index}": value for index, value in enumerate(result)}
    else:
        return {name: _array(result)}
    given = {part: value for part, value in parts.items() if value is not None}
    return {place: array for part, value in given.items() for place, array in _named(value, part).items()}


def _array(tensor: torch.Tensor) -> Array:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise InputError(
            f"expected a network that returns tensors, got {type(tensor).__name__}",
            hint="compare networks whose outputs are tensors, or lists, tuples or dicts of them",
        )
    wide = tensor.detach().cpu()
    if wide.is_complex():
        wide = torch.view_as_real(wide)
    return (wide.float() if wide.dtype.is_floating_point and wide.itemsize < 4 else wide).numpy()
