"""The runner for TensorRT engines, using the API by tensor names (TensorRT 8.5 and newer)."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np

from irepdeploy.board.cuda_device import CudaGraph
from irepdeploy.board.cudart import open_cuda
from irepdeploy.board.runner import DeviceTimed, Runner, TensorSpec, shape_text
from irepdeploy.board.sidecar import Sidecar, check_sidecar, read_plan_header, read_sidecar
from irepdeploy.board.transfers import known_transfers
from irepdeploy.board.trt_library import (
    DTYPES,
    FLAVOURS,
    LogMessage,
    first_reasons,
    forget_logger,
    lacks_gpu,
    lacks_memory,
    load_tensorrt,
    logged,
    logger_of,
)
from irepdeploy.errors import InputError, IrepdeployError, MissingError, ModelError, RunError
from irepdeploy.limits import open_file, read_file

__all__ = ["TrtRunner"]


class TrtRunner(Runner):
    """Runner of a TensorRT engine, after checking its sidecar against the installed TensorRT and the GPU.

    Args:
        engine: Path of the engine.
        device: Index of the GPU.
        require_sidecar: Refuse an engine without a sidecar.
        cuda_graph: Capture the call of `bind` as one CUDA graph; `describe` reports whether that succeeded.
        backend: CUDA binding, one of `irepdeploy.board.cudart.BACKENDS`; None for the first one that works.
        transfers: "included" if a bound call copies its inputs to the GPU and its outputs back, both in page-locked
            memory; otherwise "excluded".

    Raises:
        InputError: On activation: there is no such engine, or its sidecar or header shows that it cannot run here.
        MissingError: On activation: TensorRT, the driver or a GPU is missing.
        ModelError: TensorRT refuses the engine. Its reason is quoted.
        RunError: The GPU is out of memory.
    """

    name = "trt"

    def __init__(
        self,
        engine: Union[str, os.PathLike],
        *,
        device: int = 0,
        require_sidecar: bool = True,
        cuda_graph: bool = False,
        backend: Optional[str] = None,
        transfers: str = "excluded",
    ) -> None:
        super().__init__()
        self._path = os.fspath(engine)
        self._device = device
        self._require_sidecar = require_sidecar
        self._wants_graph = cuda_graph
        self._backend = backend
        self._transfers = transfers
        self._forget()

    def _forget(self) -> None:
        self._library: Any = None
        self._cuda: Any = None
        self._stream: Any = None
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._pointers: List[int] = []
        self._hosts: List[np.ndarray] = []
        self._events: List[Any] = []
        self._graphs: List[CudaGraph] = []
        self._messages: List[LogMessage] = []
        self._quoted = 0
        self._current: Optional[Dict[str, int]] = None
        self._sidecar: Optional[Sidecar] = None
        self._graph = "not asked for"

    def _activate(self) -> None:
        known_transfers(self._transfers, self.name)
        self._library = load_tensorrt(_flavour(self._path))
        # Check once before using the GPU, so that a wrong file is reported on any machine.
        self._check_engine(None)
        self._cuda = open_cuda(self._device, backend=self._backend)
        self._facts = self._cuda.facts()
        self._sidecar = self._check_engine(self._facts["compute_capability"])
        self._stream = self._cuda.stream()
        self._load()
        engine, mode = self._engine, self._library.module.TensorIOMode
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._dtypes = {name: self._dtype(name) for name in names}
        self._outputs = [name for name in names if engine.get_tensor_mode(name) != mode.INPUT]
        self._inputs = [
            TensorSpec(
                name,
                tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name)),
                self._dtypes[name],
            )
            for name in names
            if engine.get_tensor_mode(name) == mode.INPUT
        ]

    def _deactivate(self) -> None:
        try:
            self._release()
        finally:
            # Needed even if releasing fails, since every CUDA call fails after a sticky error.
            if self._library is not None:
                forget_logger(self._library.module, self._hear)
            self._forget()

    def _release(self) -> None:
        cuda = self._cuda
        if cuda is not None:
            cuda.use()
            for graph in self._graphs:
                graph.end()
        # The order matters: each object needs the next one.
        self._context = None
        self._engine = None
        self._runtime = None
        if cuda is not None:
            for event in self._events:
                cuda.end_event(event)
            for pointer in self._pointers:
                cuda.free(pointer)
            for array in self._hosts:
                cuda.free_host(array)
            if self._stream is not None:
                cuda.end_stream(self._stream)
            cuda.close()

    def _infer(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        cuda, stream = self._cuda, self._stream
        cuda.use()
        pointers = self._prepare(feeds)
        try:
            self._execute(stream)
            outputs = {}
            for name in self._outputs:
                outputs[name] = np.empty(self._shape(name), self._dtypes[name])
                cuda.to_host(outputs[name], pointers[name], stream)
            cuda.synchronize(stream)
        finally:
            self._free(pointers)
        return outputs

    def _bind(self, feeds: Dict[str, np.ndarray]) -> Callable[[], None]:
        cuda, stream = self._cuda, self._stream
        cuda.use()
        included = self._transfers == "included"
        fixed = self._pinned if included else _copied
        arrays = {name: fixed(array) for name, array in feeds.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        pointers = self._prepare(arrays)
        outputs = {name: self._host(self._shape(name), self._dtypes[name]) for name in self._outputs if included}
        start, end = cuda.event(), cuda.event()
        self._events += [start, end]
        run = self._ready(stream)

        def call() -> None:
            nonlocal run
            cuda.use()
            if self._current is not pointers:
                # Another call has set its own inputs in between.
                self._point(shapes, pointers)
                run = self._ready(stream, run)
            if included:
                for name, array in arrays.items():
                    cuda.to_device(pointers[name], array, stream)
            cuda.record(start, stream)
            run()
            cuda.record(end, stream)
            for name, array in outputs.items():
                cuda.to_host(array, pointers[name], stream)
            cuda.synchronize(stream)

        return DeviceTimed(call, lambda: round(cuda.elapsed_ms(start, end) * 1e6))

    def _ready(self, stream: int, old: Optional[Callable[[], None]] = None) -> Callable[[], None]:
        """Run one inference, and return a function that repeats it on the stream, as a CUDA graph if possible.

        `old` is the function that it replaces. A graph is captured only if the user requested one.
        """
        # Needed before a capture, because TensorRT initializes itself in the first run after shapes are set.
        self._execute(stream)
        self._cuda.synchronize(stream)
        # Release the old graph only now: if the run above had failed, the caller would still be using it.
        if isinstance(old, CudaGraph):
            self._graphs.remove(old)
            old.end()
        if self._wants_graph and not self._graph.startswith("failed"):
            try:
                graph = self._cuda.capture(stream, lambda: self._execute(stream))
            except (MissingError, RunError, ModelError) as error:
                # TensorRT may also refuse by itself without affecting the stream.
                self._graph = "failed: " + error.what
            else:
                self._graph = "captured"
                self._graphs.append(graph)
                return graph
        return lambda: self._execute(stream)

    def _describe(self) -> Dict[str, Any]:
        sidecar = self._sidecar
        return {
            "provider": FLAVOURS[self._library.flavour],
            "version": self._library.version,
            "device": "cuda",
            "threads": 1,
            "gpu": self._facts,
            "precision": "unknown" if sidecar is None else sidecar.precision,
            "typing": "unknown" if sidecar is None else sidecar.typing,
            "tf32": "unknown" if sidecar is None else sidecar.tf32,
            "transfers": self._transfers,
            **({"host_memory": "page-locked"} if self._transfers == "included" else {}),
            "cuda_binding": self._cuda.name,
            "cuda_graph": self._graph,
            "host_waits": self._cuda.waits,
            **({} if self._dla_core is None else {"dla_core": self._dla_core}),
        }

    @property
    def _dla_core(self) -> Optional[int]:
        return None if self._sidecar is None else self._sidecar.settings.get("dla_core")

    def _check_engine(self, compute_capability: Optional[str]) -> Optional[Sidecar]:
        return check_sidecar(
            self._path,
            version=self._library.version,
            flavour=self._library.flavour,
            compute_capability=compute_capability,
            require=self._require_sidecar,
        )

    def _load(self) -> None:
        trt = self._library.module
        plan = read_file(self._path, "engine")
        self._quoted = len(self._messages)
        logger = logger_of(trt, self._hear)
        try:
            self._runtime = trt.Runtime(logger)
        except (RuntimeError, TypeError) as error:
            # pybind11 raises TypeError for a null pointer.
            raise self._error("cannot start") from error
        if self._dla_core is not None:
            # Otherwise core 0 would run the engine, whichever core it was built for.
            self._runtime.DLA_core = self._dla_core
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self._error("refuses this engine")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._error("cannot prepare this engine")

    def _prepare(self, feeds: Dict[str, np.ndarray]) -> Dict[str, int]:
        """Copy the inputs to the device, allocate the outputs, and set the addresses of both in the context."""
        cuda, stream = self._cuda, self._stream
        pointers: Dict[str, int] = {}
        try:
            arrays = {name: np.asarray(array, order="C") for name, array in feeds.items()}
            for name, array in arrays.items():
                pointers[name] = self._malloc(array.nbytes)
                cuda.to_device(pointers[name], array, stream)
                self._set_shape(name, array.shape)
            for name in self._outputs:
                size = int(np.prod(self._shape(name), dtype=np.int64))
                pointers[name] = self._malloc(size * np.dtype(self._dtypes[name]).itemsize)
            self._point({}, pointers)
            cuda.synchronize(stream)
        except BaseException:
            self._free(pointers)
            raise
        return pointers

    def _shape(self, name: str) -> Tuple[int, ...]:
        return tuple(self._context.get_tensor_shape(name))

    def _host(self, shape: Tuple[int, ...], dtype: str) -> np.ndarray:
        array = self._cuda.host_array(shape, dtype)
        self._hosts.append(array)
        return array

    def _pinned(self, array: np.ndarray) -> np.ndarray:
        host = self._host(array.shape, str(array.dtype))
        host[...] = array
        return host

    def _hear(self, severity: str, text: str) -> None:
        self._messages.append((severity, text))

    def _point(self, shapes: Dict[str, Any], pointers: Dict[str, int]) -> None:
        for name, shape in shapes.items():
            self._set_shape(name, shape)
        for name, pointer in pointers.items():
            self._context.set_tensor_address(name, pointer)
        self._current = pointers

    def _set_shape(self, name: str, shape: Any) -> None:
        if not self._context.set_input_shape(name, tuple(shape)):
            raise InputError(
                f"shape {shape_text(tuple(shape))} is outside the engine's profile",
                where=f"{self.name}, input {name!r}",
                hint="build the engine with a --dynamic-batch that includes this shape",
            )

    def _execute(self, stream: int) -> None:
        # Quote no earlier messages, which may belong to other engines of this process.
        self._quoted = len(self._messages)
        if not self._context.execute_async_v3(stream):
            # Make bound calls set their shapes and addresses again.
            self._current = None
            raise self._error("cannot run this engine")

    def _malloc(self, size: int) -> int:
        pointer = self._cuda.malloc(size)
        self._pointers.append(pointer)
        return pointer

    def _free(self, pointers: Dict[str, int]) -> None:
        self._current = None
        for pointer in pointers.values():
            self._pointers.remove(pointer)
            self._cuda.free(pointer)

    def _dtype(self, name: str) -> str:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise ModelError(f"tensor {name!r} has type {kind}, which numpy does not have", where=self._path)
        return DTYPES[kind]

    def _error(self, what: str) -> IrepdeployError:
        reasons = logged(self._messages[self._quoted :])
        text = first_reasons(reasons)
        if lacks_gpu(reasons):
            return MissingError(f"no usable GPU: {text}", where=self._path, hint="irepdeploy doctor")
        if lacks_memory(reasons):
            return RunError(f"the GPU is out of memory: {text}", where=self._path, hint="use a smaller batch")
        hint = None if self._sidecar is None else "build it again: " + self._sidecar.command
        return ModelError(f"{self._library.title} {what}: {text}", where=self._path, hint=hint)


def _copied(array: np.ndarray) -> np.ndarray:
    return np.array(array, order="C")


def _flavour(path: str) -> str:
    """Return the flavour given by the sidecar, or else by the engine's header, or else "tensorrt"."""
    with open_file(path, "engine") as file:
        header = read_plan_header(file.read(28))
    sidecar = read_sidecar(path)
    if sidecar is not None:
        return sidecar.flavour
    return "tensorrt" if header is None else header.flavour
