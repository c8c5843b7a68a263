"""TorchGraphRunner: run an nn.Module as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError, ModelError, first_line
from irepdeploy.runtime.memory import is_out_of_memory
from irepdeploy.runtime.torch_runner import TorchRunner, forward_error

if TYPE_CHECKING:
    import torch
    from torch import nn

    from irepdeploy.board.runner import TensorSpec

__all__ = ["TorchGraphRunner"]

# Runs before the capture, for one-time work such as allocations and cuDNN's choice of algorithms.
_RUNS_BEFORE = 3


class TorchGraphRunner(TorchRunner):
    """Run a module as one CUDA graph, which avoids kernel launches, most of the latency at batch size 1.

    A bound call replays its own graph, while `infer` captures a new one each time. A network that cannot be captured is
    refused.

    Raises (on activation, in addition to `TorchRunner`):
        InputError: The device is not CUDA.
    """

    name = "torch-graph"

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[str],
        *,
        device: str = "cuda",
        **settings: Any,
    ) -> None:
        super().__init__(model, inputs, outputs, device=device, **settings)

    def _activate(self) -> None:
        if not self._asked_device.startswith("cuda"):
            raise InputError(
                f"expected a CUDA device, got {self._asked_device}", where=self.name, hint="for example cuda"
            )
        super()._activate()

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "cuda_graph": "captured"}

    def _network(self, tensors: Sequence[torch.Tensor]) -> Callable[..., Any]:
        run = self._closed(tensors)
        return lambda *same: run()

    def _closed(self, tensors: Sequence[torch.Tensor]) -> Callable[[], Any]:
        import torch

        net, current = self._net, torch.cuda.current_stream(self._device)
        assert net is not None
        aside, graph = torch.cuda.Stream(self._device), torch.cuda.CUDAGraph()
        with torch.inference_mode():
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                for _ in range(_RUNS_BEFORE):
                    net(*tensors)
            current.wait_stream(aside)
            try:
                # torch's default capture stream is shared by all devices, and belongs to that of the first capture.
                with torch.cuda.graph(graph, stream=aside):
                    returned = net(*tensors)
            except Exception as error:  # anything in a foreign forward that cannot be captured
                if is_out_of_memory(error):
                    raise forward_error(error, self.name) from error
                raise ModelError(
                    f"the network cannot be captured as a CUDA graph: {first_line(error)}",
                    where=self.name,
                    hint="use --runner torch",
                ) from error

        def replay() -> Any:
            graph.replay()
            return returned

        return replay
