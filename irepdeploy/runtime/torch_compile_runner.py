"""TorchCompileRunner: an nn.Module compiled by torch.compile, all of it or not at all."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import MissingError, ModelError
from irepdeploy.runtime.torch_runner import TorchRunner

if TYPE_CHECKING:
    import torch

__all__ = ["TorchCompileRunner"]

# A sweep of batches compiles once for each; beyond its own limit torch would go on without compiling.
_MOST_SHAPES = 64


class TorchCompileRunner(TorchRunner):
    """Runs a module as one graph that torch.compile made of it, anew for every shape of its inputs.

    Nothing of it runs eagerly: a network that cannot be compiled whole is refused. Compiling takes seconds to minutes,
    before anything is timed.

    Raises (on activation, beside those of `TorchRunner`):
        MissingError: no compiler that torch.compile needs, or the environment switches it off.
    """

    name = "torch-compile"

    def _activate(self) -> None:
        super()._activate()
        self._compiled: dict[Any, Callable[..., Any]] = {}
        import torch._dynamo.config as dynamo

        if dynamo.disable:
            raise MissingError(
                "torch.compile is switched off here", where=self.name, hint="unset TORCH_COMPILE_DISABLE"
            )
        if self._device.type == "cpu":
            _check_compiler()

    def _deactivate(self) -> None:
        super()._deactivate()
        self._compiled = {}

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "compile": "inductor, whole graph, static shapes"}

    def _network(self, tensors: Sequence[torch.Tensor]) -> Callable[..., Any]:
        key = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if key not in self._compiled:
            self._compiled[key] = self._compile(tensors)
        return self._compiled[key]

    def _compile(self, tensors: Sequence[torch.Tensor]) -> Callable[..., Any]:
        import torch
        import torch._dynamo.config as dynamo

        net = self._net
        assert net is not None

        def run(*inputs: torch.Tensor) -> Any:
            return net(*inputs)

        # What torch has compiled hangs on the code object and is searched at every call: one that all networks share
        # would make each slower with every other.
        run.__code__ = run.__code__.replace()
        options: dict[str, Any] = {}
        if self._device.type == "cpu":
            # Else it is the number when the cache on disk was filled.
            options["cpp.threads"] = torch.get_num_threads()
        compiled = torch.compile(run, fullgraph=True, dynamic=False, options=options)
        # What fails without being compiled is no fault of compiling.
        net(*tensors)
        with warnings.catch_warnings(), dynamo.patch(recompile_limit=_MOST_SHAPES, suppress_errors=False):
            # Of torch's own modules, when they are first imported.
            warnings.simplefilter("ignore")
            try:
                compiled(*tensors)
            except Exception as error:  # whatever the compiler raises
                raise ModelError(
                    f"torch.compile cannot take this network whole: {_reason(error)}",
                    where=self.name,
                    hint="--runner torch runs it as it is",
                ) from error
        return compiled


def _reason(error: Exception) -> str:
    """The first lines of what torch says; the others are advice for whoever debugs torch."""
    return " ".join(line.strip() for line in str(error).strip().splitlines()[:3])[:300] or type(error).__name__


def _check_compiler() -> None:
    from torch._inductor import config

    names = [name for name in config.cpp.cxx if name]
    if not any(shutil.which(name) for name in names):
        raise MissingError(
            f"torch.compile needs a C++ compiler, and there is no {' or '.join(names)}",
            where=TorchCompileRunner.name,
            hint="sudo apt-get install g++",
        )
