"""TorchCompileRunner: run an nn.Module as a single graph of torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import ModelError
from irepdeploy.runtime.compiled import compiled, reason, require_compiler
from irepdeploy.runtime.memory import is_out_of_memory
from irepdeploy.runtime.torch_runner import TorchRunner, forward_error

if TYPE_CHECKING:
    import torch

__all__ = ["TorchCompileRunner"]

# A sweep over batch sizes compiles once for each. Beyond its own limit, torch would silently stop compiling.
_MOST_SHAPES = 64


class TorchCompileRunner(TorchRunner):
    """Run a module as a single graph of torch.compile, with one graph for every shape of its inputs.

    Nothing runs eagerly: a network that cannot be compiled as a whole is refused. Compilation takes seconds to minutes,
    and is not timed.

    Raises (on activation, in addition to `TorchRunner`):
        MissingError: torch.compile finds no compiler, or the environment disables torch.compile.
    """

    name = "torch-compile"

    def _activate(self) -> None:
        super()._activate()
        self._compiled: dict[Any, Callable[..., Any]] = {}
        require_compiler(self._device, self.name)

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
        import torch._dynamo.config as dynamo

        net = self._net
        assert net is not None
        call = compiled(net, self._device, whole=True)
        # Run eagerly first: an error that occurs here is not a compilation error.
        net(*tensors)
        with warnings.catch_warnings(), dynamo.patch(recompile_limit=_MOST_SHAPES, suppress_errors=False):
            # torch's own modules warn when they are first imported.
            warnings.simplefilter("ignore")
            try:
                call(*tensors)
            except Exception as error:  # anything that the compiler raises
                if is_out_of_memory(error):
                    raise forward_error(error, self.name) from error
                raise ModelError(
                    f"torch.compile cannot compile this network as a whole: {reason(error)}",
                    where=self.name,
                    hint="use --runner torch",
                ) from error
        return call
