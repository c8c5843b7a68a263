"""A network captured as CUDA graphs, which replay without launching kernels one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from irepdeploy.errors import RunError, first_line
from irepdeploy.runtime.memory import is_out_of_memory

__all__ = ["CapturedForward"]

_WARM_UP = 3


class CapturedForward:
    """The forward pass of a network in eval mode as one CUDA graph for each shape of batch.

    Weights may change in place between calls; nothing else may. The forward pass must neither depend on values nor
    synchronize with the device.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._pool: Any = None
        self._side: torch.cuda.Stream | None = None

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, classes), which the next call overwrites."""
        shape = tuple(images.shape)
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(images)
        graph, images_in, logits = self._graphs[shape]
        images_in.copy_(images)
        graph.replay()
        return logits

    def _capture(self, images: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        # Keep the strides: the memory layout is part of the captured graph.
        images_in = torch.empty_like(images)
        images_in.copy_(images)
        graph = torch.cuda.CUDAGraph()
        try:
            # Warm up on a side stream first: libraries choose their kernels and allocate memory.
            side = self._side = self._side or torch.cuda.Stream(images.device)
            with torch.cuda.device(images.device):
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):
                    for _ in range(_WARM_UP):
                        self._network(images_in)
                torch.cuda.current_stream().wait_stream(side)
                # torch's own stream for captures is one for all devices: that of the first capture. The graphs of one
                # pool must be captured on one stream.
                with torch.cuda.graph(graph, pool=self._pool, stream=side):
                    logits = self._network(images_in)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise RunError(
                f"the network cannot be captured as a CUDA graph: {first_line(error)}",
                where=type(self._network).__name__,
                hint="PopulationEvaluator(..., graph=False) runs it kernel by kernel",
            ) from error
        self._pool = graph.pool()
        return graph, images_in, logits
