"""TorchRunner: run an nn.Module in eager PyTorch; the base class of the other torch runners."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from irepdeploy.board.runner import DeviceTimed, Runner, TensorSpec, positive_threads
from irepdeploy.board.transfers import known_transfers
from irepdeploy.errors import InputError, IrepdeployError, MissingError, ModelError, RunError, first_line
from irepdeploy.runtime.memory import is_out_of_memory
from irepdeploy.runtime.memory_format import channels_last
from irepdeploy.runtime.torch_settings import check_settings, cuda_arithmetic, torch_settings

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["TorchRunner", "flattened", "forward_error"]

_PRECISIONS = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}


class TorchRunner(Runner):
    """Run a module in inference mode. The caller's module is neither moved nor changed.

    On CUDA, cuDNN benchmarks its algorithms while the runner is active.

    Args:
        model: A module in eval mode. It takes its inputs by position, in the order of `inputs`, and returns a tensor, a
            sequence of tensors, or a mapping with the names in `outputs`.
        inputs: The inputs of the module; their shapes include the batch.
        outputs: Names of the outputs of the module.
        device: Name of a torch device.
        threads: Number of threads while the runner is active. None keeps torch's setting.
        channels_last: Use the memory format NHWC.
        tf32: Allow TF32 on CUDA while the runner is active.
        transfers: If "included", a bound call copies its inputs to the device and its outputs back, on CUDA from and to
            page-locked memory. If "excluded", it copies neither.
        onednn: Let torch use the kernels of oneDNN in `infer`, which are much faster than torch's own kernels and round
            differently.

    Raises (on activation):
        InputError: The module is in train mode, or the device, thread count or kind of transfers is not valid.
        MissingError: The device is not available.
    """

    name = "torch"

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[str],
        *,
        device: str = "cpu",
        threads: int | None = None,
        channels_last: bool = False,
        tf32: bool = False,
        transfers: str = "excluded",
        onednn: bool = True,
    ) -> None:
        super().__init__()
        self._model = model
        self._inputs = list(inputs)
        self._outputs = list(outputs)
        self._asked_device = device
        self._threads = threads
        self._channels_last = channels_last
        self._tf32 = tf32
        self._transfers = transfers
        self._onednn = onednn
        self._net: nn.Module | None = None
        self._settings = contextlib.ExitStack()

    def _activate(self) -> None:
        known_transfers(self._transfers, self.name)
        if any(module.training for module in self._model.modules()):
            raise InputError(
                "the network is in train mode, where its outputs depend on the batch",
                where=self.name,
                hint="call .eval() first",
            )
        if self._threads is not None:
            positive_threads(self._threads, self.name)
        self._device = _device(self._asked_device)
        self._on_cuda = self._device.type == "cuda"
        self._net = self._model
        elsewhere = any(tensor.device != self._device for tensor in _tensors(self._model))
        if elsewhere or self._channels_last:
            self._net = copy.deepcopy(self._model).to(self._device)
        if self._channels_last:
            channels_last(self._net)
        self._settings.enter_context(torch_settings(threads=self._threads, cuda=self._on_cuda, tf32=self._tf32))

    def _deactivate(self) -> None:
        self._net = None
        self._settings.close()

    def _infer(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = self._forward(self._to_device(feeds))
        return {name: _array(value) for name, value in zip(self._outputs, values, strict=True)}

    def _bind(self, feeds: dict[str, np.ndarray]) -> Callable[[], None]:
        import torch

        tensors = self._to_device(feeds)
        outputs = self._forward(tensors)
        inference_mode = torch.inference_mode
        try:
            with self._on_device():
                run = self._closed(tensors)
        except IrepdeployError:
            raise
        except Exception as error:  # anything that a foreign forward raises, such as running out of memory
            raise forward_error(error, self.name) from error
        if self._device.type == "cpu":

            def call() -> None:
                with inference_mode():
                    run()

            return call

        included = self._transfers == "included"
        hosts = [tensor.cpu() for tensor in tensors] if included else []
        back = [torch.empty_like(value, device="cpu") for value in outputs] if included else []
        if self._on_cuda:
            hosts, back = [host.pin_memory() for host in hosts], [host.pin_memory() for host in back]
        synchronize, device = torch.accelerator.synchronize, self._device
        start, end = [torch.cuda.Event(enable_timing=True) if self._on_cuda else None for _ in range(2)]

        def call_and_wait() -> None:
            # Events are recorded on the current device, which may be a different one.
            with inference_mode(), self._on_device():
                for tensor, host in zip(tensors, hosts, strict=False):
                    tensor.copy_(host, non_blocking=True)
                if start is not None:
                    start.record()
                returned = run()
                if end is not None:
                    end.record()
                if included:
                    for value, host in zip(flattened(returned), back, strict=False):
                        host.copy_(value, non_blocking=True)
            synchronize(device)

        if start is None or end is None:
            return call_and_wait
        return DeviceTimed(call_and_wait, lambda: round(start.elapsed_time(end) * 1e6))

    def _describe(self) -> dict[str, Any]:
        import torch

        assert self._net is not None
        on_cpu = self._device.type == "cpu"
        described: dict[str, Any] = {
            "provider": f"torch {self._device.type}",
            "device": str(self._device),
            "threads": torch.get_num_threads(),
            "precision": _precision(self._net),
            "channels_last": self._channels_last,
            "transfers": "none" if on_cpu else self._transfers,
            "version": torch.__version__,
        }
        if self._on_cuda:
            described.update(cuda_arithmetic())
            described["gpu"] = torch.cuda.get_device_name(self._device)
            if self._transfers == "included":
                described["host_memory"] = "page-locked"
        return described

    def _on_device(self) -> contextlib.AbstractContextManager[Any]:
        """Make the runner's GPU the current device, which torch's events, streams and graphs use implicitly."""
        import torch

        return torch.cuda.device(self._device) if self._on_cuda else contextlib.nullcontext()

    def _network(self, tensors: Sequence[torch.Tensor]) -> Callable[..., Any]:
        """Return the function to call with tensors of these shapes."""
        assert self._net is not None
        return self._net

    def _closed(self, tensors: Sequence[torch.Tensor]) -> Callable[[], Any]:
        """Return a function that runs the network on these tensors; it must be called in inference mode."""
        run = self._network(tensors)
        return lambda: run(*tensors)

    def _to_device(self, feeds: dict[str, np.ndarray]) -> list[torch.Tensor]:
        import torch

        check_settings(threads=self._threads, cuda=self._on_cuda, tf32=self._tf32, where=self.name)
        tensors = []
        for spec in self._inputs:
            tensor = torch.from_numpy(np.array(feeds[spec.name], order="C")).to(self._device)
            if self._channels_last and tensor.dim() == 4:
                tensor = channels_last(tensor)
            tensors.append(tensor)
        return tensors

    def _forward(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        import torch

        try:
            kernels = contextlib.nullcontext() if self._onednn else _without_onednn()
            with torch.inference_mode(), self._on_device(), kernels:
                returned = self._network(tensors)(*tensors)
        except IrepdeployError:
            raise
        except Exception as error:  # anything that a foreign forward raises
            raise forward_error(error, self.name) from error
        values: list[Any]
        if isinstance(returned, Mapping) and set(self._outputs) & set(returned):
            values = [returned.get(name) for name in self._outputs]
        else:
            values = list(flattened(returned))
        found = list(returned) if isinstance(returned, Mapping) else [f"{len(values)} unnamed"]
        if len(values) != len(self._outputs) or not all(isinstance(value, torch.Tensor) for value in values):
            raise ModelError(
                f"expected the network to return tensors {self._outputs}, got {found}",
                where=self.name,
                hint="wrap the network in one that returns only these tensors",
            )
        return values


def forward_error(error: Exception, where: str) -> IrepdeployError:
    """Return the error for anything that the ``forward`` of a network raises."""
    text = first_line(error)
    if is_out_of_memory(error):
        return RunError(f"out of memory: {text}", where=where, hint="use a smaller batch")
    return ModelError(f"the network cannot run on this input: {text}", where=where, hint="check its input shape")


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    import torch

    # `flags` is not used because it also sets TF32, and warns that TF32 is unavailable.
    before = torch.backends.mkldnn.set_flags(False)
    try:
        yield
    finally:
        torch.backends.mkldnn.set_flags(before[0], None, None, *before[3:])


def flattened(returned: Any) -> Iterator[Any]:
    """Yield the items of nested tuples, lists and mappings in order, without None."""
    if isinstance(returned, Mapping):
        returned = list(returned.values())
    if isinstance(returned, list | tuple):
        for item in returned:
            yield from flattened(item)
    elif returned is not None:
        yield returned


def _device(asked: str) -> torch.device:
    import torch

    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise InputError(f"unknown device {asked!r}", where="torch", hint="for example cpu, cuda, cuda:1") from error
    if device.type == "meta":
        raise InputError("the device 'meta' computes nothing", where="torch", hint="for example cpu, cuda")
    try:
        # The device of a tensor has an index ('cuda' becomes 'cuda:0'), as do those of parameters.
        return torch.empty(1, device=device).device
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise MissingError(
            f"the device {asked!r} cannot be used: {first_line(error)}", where="torch", hint="use --device cpu"
        ) from error


def _tensors(net: nn.Module) -> list[torch.Tensor]:
    return [*net.parameters(), *net.buffers()]


def _precision(net: nn.Module) -> str:
    # Only parameters are considered, since BN counts its batches in int64.
    kinds = {str(tensor.dtype).rsplit(".", 1)[-1] for tensor in net.parameters()}
    if len(kinds) != 1:
        return "mixed" if kinds else "unknown"
    kind = kinds.pop()
    return _PRECISIONS.get(kind, kind)


def _array(tensor: torch.Tensor) -> np.ndarray:
    import torch

    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    # Copied because the tensor may be a view of the input or of a buffer.
    return np.array(tensor.cpu().numpy())
