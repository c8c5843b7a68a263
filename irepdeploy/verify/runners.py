"""Runners of the models of a comparison, their outputs on all inputs, and the noise of these outputs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from irepdeploy.board.comparison import Noise
from irepdeploy.board.runner import Runner, TensorSpec
from irepdeploy.errors import IrepdeployError
from irepdeploy.verify.noise import noise_between, nudged
from irepdeploy.verify.onnx_process import OnnxProcessRunner
from irepdeploy.verify.samples import Inputs, Outputs, batches, mapped, named

if TYPE_CHECKING:
    from torch import nn

__all__ = ["infer_all", "network_runner", "noise_of", "onnx_runner"]

Array = np.ndarray[Any, Any]

_CHUNK = 8
# Number of samples on which a torch network runs without its fast kernels.
_FEW = 2


def network_runner(
    model: nn.Module,
    specs: Sequence[TensorSpec] = (),
    outputs: Sequence[str] | None = None,
    *,
    plain: bool = False,
) -> Runner:
    """Return a runner of `model` for any batch size.

    Floating-point inputs have the dtype of the weights. If numpy lacks that dtype or the weights have several, inputs
    are float32 and are cast.

    Args:
        model: The network, in eval mode.
        specs: The inputs. Defaults to those of its Origin, or to one image of any size if it has none.
        outputs: Names of the outputs. Defaults to those of its Origin.
        plain: Compute without oneDNN.
    """
    from irepdeploy.reparam.origin import origin_of
    from irepdeploy.runtime.torch_runner import TorchRunner
    from irepdeploy.verify.cast_inputs import CastInputs

    origin = origin_of(model)
    floats = [parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()]
    kinds = {str(kind).removeprefix("torch.") for kind in floats} or {"float32"}
    specs = specs or origin.specs or (TensorSpec(origin.input_name, (None, None, None, None)),)
    kind = "float32"
    if len(kinds) > 1 or not kinds <= {"float16", "float32", "float64"}:
        model = CastInputs(model, floats[0])
    else:
        kind = kinds.pop()
    cast = [spec._replace(dtype=kind) if spec.dtype.startswith("float") else spec for spec in specs]
    return TorchRunner(model, cast, outputs or origin.output_names, onednn=not plain)


def onnx_runner(
    model: str | os.PathLike[str] | bytes, *, as_written: bool = False, optimized: bool = True
) -> OnnxProcessRunner:
    """Return a runner of an ONNX model in a separate process, on all available cores and with the `time_limit`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Nothing is timed here, and spinning threads would take cores away from other processes of the command.
    return OnnxProcessRunner(model, threads=cores, spinning=False, as_written=as_written, optimized=optimized)


def infer_all(runner: Runner, inputs: Inputs) -> dict[str, Array]:
    """Run an active runner on an array (N, ...), or on a mapping of such arrays, in batches that it accepts."""
    arrays = named(inputs, runner.inputs)
    kinds = {spec.name: spec.dtype for spec in runner.inputs}
    found = Outputs(inputs)
    for feeds, size, count in batches(arrays, runner.inputs, _CHUNK):
        cast = {name: array.astype(kinds[name], copy=False) for name, array in feeds.items()}
        found.add(runner.infer(cast), size, count)
    return found.all()


def noise_of(
    runner: Runner, inputs: Inputs, outputs: Mapping[str, Array], unoptimized: Runner | None = None
) -> dict[str, Noise]:
    """Return, for each output of a model, how much it changes if only the rounding changes.

    The outputs are compared with those for inputs in which every number is one unit in the last place larger or
    smaller, and with those of `unoptimized`. A form that cannot run is omitted. A torch network runs unoptimized on
    only a few inputs, because it may take a hundred times as long without its fast kernels.

    Args:
        runner: Active runner of the model.
        inputs: Inputs as for `infer_all`.
        outputs: Outputs of the model for these inputs.
        unoptimized: Inactive runner of the model without graph optimizations, or without the kernels of oneDNN.
    """
    found: dict[str, dict[str, Array]] = {}
    with contextlib.suppress(IrepdeployError):
        moved = nudged(inputs, runner.inputs)
        if moved is not None:
            found["nudged"] = infer_all(runner, moved)
    if unoptimized is not None:
        with contextlib.suppress(IrepdeployError), unoptimized:
            fast = isinstance(unoptimized, OnnxProcessRunner)
            found["unoptimized"] = infer_all(unoptimized, inputs if fast else mapped(inputs, lambda each: each[:_FEW]))
    return noise_between(outputs, found)
