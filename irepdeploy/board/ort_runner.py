"""The runner for ONNX models on ONNX Runtime."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Tuple, Type, Union

import numpy as np

from irepdeploy.board.cudart import open_cuda
from irepdeploy.board.ort_providers import Provider, has_tf32, open_session, provider_of
from irepdeploy.board.runner import Runner, TensorSpec, positive_threads, shape_text
from irepdeploy.board.transfers import known_transfers
from irepdeploy.errors import InputError, IrepdeployError, MissingError, ModelError, RunError, one_line
from irepdeploy.limits import MODEL, open_file

__all__ = ["OrtRunner"]

_DTYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class OrtRunner(Runner):
    """Runner of an ONNX model on exactly the requested provider, with one thread pool and all graph optimizations.

    Args:
        model: Path of an ONNX file, or its content as bytes (without external data).
        provider: ONNX Runtime's name of the execution provider.
        threads: Size of the intra-operator thread pool; the inter-operator pool has one thread.
        spinning: Let idle threads of the pool spin, as ONNX Runtime does by default.
        precision: Precision of the model as reported by `describe`, because a session does not expose it.
        tf32: Allow TF32 on a GPU. Only the CUDA provider has an option for it; for the TensorRT providers, the
            environment must disable it.
        transfers: "included" if a bound call copies its inputs to the GPU and its outputs back, both in page-locked
            memory; otherwise "excluded".
        as_written: Compute QuantizeLinear and DequantizeLinear on floats instead of in fused integer kernels, which
            depend on the processor and may overflow without VNNI. Also return memory after every run.
        optimized: Apply all graph optimizations. Without them, every operator is computed separately, as written.

    Raises:
        InputError: On activation: the file is missing, an argument is invalid, or TF32 cannot be disabled.
        ModelError: On activation: the file is not an ONNX model, is damaged, lacks its external data, or has unknown
            operators.
        MissingError: On activation: onnxruntime or the provider is missing, or the provider cannot run the whole model.
    """

    name = "ort"

    def __init__(
        self,
        model: Union[str, os.PathLike, bytes],
        *,
        provider: str = "CPUExecutionProvider",
        threads: int = 1,
        spinning: bool = True,
        precision: str = "unknown",
        tf32: bool = False,
        transfers: str = "excluded",
        as_written: bool = False,
        optimized: bool = True,
    ) -> None:
        super().__init__()
        self._model = model if isinstance(model, bytes) else os.fspath(model)
        self._where = "ONNX model in memory" if isinstance(model, bytes) else os.fspath(model)
        self._asked_provider = provider
        self._threads = threads
        self._spinning = spinning
        self._precision = precision
        self._tf32 = tf32
        self._transfers = transfers
        self._as_written = as_written
        self._optimized = optimized
        self._session: Any = None
        self._cuda: Any = None
        self._hosts: List[np.ndarray] = []

    @property
    def metadata(self) -> Dict[str, str]:
        """The model's ``metadata_props``."""
        self._need_active()
        return dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def dimensions(self) -> Dict[str, Dict[str, List[Union[int, str, None]]]]:
        """Declared sizes of the "inputs" and "outputs" by name; a dynamic size is its symbol, or None if unnamed."""
        self._need_active()
        ends = {"inputs": self._session.get_inputs(), "outputs": self._session.get_outputs()}
        return {end: {value.name: list(value.shape) for value in values} for end, values in ends.items()}

    def _activate(self) -> None:
        positive_threads(self._threads, self.name)
        known_transfers(self._transfers, self.name)
        self._provider: Provider = provider_of(self._asked_provider)
        self._check_readable()
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingError("onnxruntime is not installed", hint="pip install onnxruntime") from error
        self._version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if self._optimized else levels.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning else "0")
        if self._as_written:
            options.enable_cpu_mem_arena = False
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        # Failures are raised as exceptions; by default ONNX Runtime would also print them.
        options.log_severity_level = 4
        try:
            self._session = open_session(
                onnxruntime, self._model, options, self._provider, tf32=self._tf32, where=self._where
            )
            self._inputs = [self._spec(value) for value in self._session.get_inputs()]
            self._outputs = [value.name for value in self._session.get_outputs()]
        except _ort_errors() as error:  # also raised for names that are not valid UTF-8
            raise self._load_error(error) from error

    def _deactivate(self) -> None:
        self._session = None
        if self._cuda is not None:
            for host in self._hosts:
                self._cuda.free_host(host)
            self._cuda.close()
        self._cuda, self._hosts = None, []

    def _infer(self, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        try:
            values = self._session.run(self._outputs, feeds)
        except _ort_errors() as error:
            raise self._run_error(error, feeds) from error
        return dict(zip(self._outputs, values))

    def _bind(self, feeds: Dict[str, np.ndarray]) -> Callable[[], None]:
        session, device = self._session, self._provider.device
        if device != "cpu" and self._transfers == "included":
            return self._bind_transfers(feeds)
        binding = session.io_binding()
        for name, array in feeds.items():
            # The binding uses this memory and keeps it alive; copying ensures that the inputs stay fixed.
            binding.bind_cpu_input(name, np.array(array, order="C"))
        for name in self._outputs:
            binding.bind_output(name, device)
        run = session.run_with_iobinding
        try:
            run(binding)
        except _ort_errors() as error:
            raise self._run_error(error, feeds) from error
        if device == "cpu":
            return lambda: run(binding)

        def call() -> None:
            run(binding)
            binding.synchronize_outputs()

        return call

    def _bind_transfers(self, feeds: Dict[str, np.ndarray]) -> Callable[[], None]:
        binding = self._session.io_binding()
        # CUDA recognizes page-locked memory by its address, even though ONNX Runtime treats it as ordinary memory.
        outputs = {name: self._page_locked(array) for name, array in self._infer(feeds).items()}
        inputs = {name: self._page_locked(array) for name, array in feeds.items()}
        for name, array in outputs.items():
            binding.bind_output(name, *_place(array))
        given = [(name, *_place(array)) for name, array in inputs.items()]
        bind, run = binding.bind_input, self._session.run_with_iobinding

        def call() -> None:
            for each in given:
                # An input is copied when it is bound, not during the run (IOBinding::BindInput).
                bind(*each)
            run(binding)
            binding.synchronize_outputs()

        call()
        return call

    def _page_locked(self, array: np.ndarray) -> np.ndarray:
        """Return a copy in page-locked memory that lives as long as the session."""
        if self._cuda is None:
            self._cuda = open_cuda()
        host = self._cuda.host_array(array.shape, str(array.dtype))
        self._hosts.append(host)
        host[...] = array
        return host

    def _describe(self) -> Dict[str, Any]:
        device, tf32 = self._provider.device, has_tf32(self._provider, self._tf32)
        described = {
            "provider": self._session.get_providers()[0],
            "device": device,
            "threads": self._threads,
            "inter_op_threads": 1,
            "spinning": self._spinning,
            "graph_optimization": "all" if self._optimized else "none",
            "precision": self._precision,
            "transfers": "none" if device == "cpu" else self._transfers,
            "version": self._version,
        }
        if tf32 is not None:
            described["tf32"] = tf32
        if described["transfers"] == "included":
            described["host_memory"] = "page-locked"
        return described

    def _check_readable(self) -> None:
        # In these cases ONNX Runtime's own messages name its source lines, not the mistake.
        if isinstance(self._model, bytes):
            return
        open_file(self._model, "ONNX file", MODEL).close()
        try:
            self._model.encode()
        except UnicodeEncodeError:
            what = "ONNX Runtime cannot open a path that is not UTF-8"
            raise InputError(what, where=self._where, hint="rename it") from None

    def _spec(self, value: Any) -> TensorSpec:
        if value.type not in _DTYPES:
            raise ModelError(f"input {value.name!r} is a {value.type}, which is not supported", where=self._where)
        # A dynamic dimension is None or the name of its symbol.
        shape = tuple(size if isinstance(size, int) else None for size in value.shape)
        return TensorSpec(value.name, shape, _DTYPES[value.type])

    def _load_error(self, error: Exception) -> IrepdeployError:
        kind, text = type(error).__name__, one_line(error)
        if "disable_cpu_ep_fallback" in text or "CPU EP" in text or "explicitly disabled" in text:
            return MissingError(
                f"{self._provider.name} cannot run every operator of this model, and falling back is disabled",
                where=self._where,
                hint="use another runner",
            )
        if kind == "InvalidProtobuf":
            return ModelError("not an ONNX model, or damaged", where=self._where, hint="export it again")
        if "external" in text.lower():
            return ModelError(
                f"its external data cannot be read: {text}",
                where=self._where,
                hint="keep the data file next to the model, under its original name",
            )
        unknown = ("No Op registered", "not a registered function")
        if kind == "NotImplemented" or any(words in str(error) for words in unknown):
            return ModelError(f"ONNX Runtime lacks an operator of this model: {text}", where=self._where)
        if text.startswith("Load model from "):
            # Remove the path, which the error already begins with.
            text = text.partition(" failed:")[2].strip() or text
        return ModelError(
            f"ONNX Runtime cannot load this model: {text}",
            where=self._where,
            hint="export it again, or copy it again if the copy is incomplete",
        )

    def _run_error(self, error: Exception, feeds: Dict[str, np.ndarray]) -> IrepdeployError:
        text = one_line(error)
        if "Failed to allocate" in text or "bad allocation" in text or "out of memory" in text.lower():
            return RunError(f"out of memory: {text}", where=self._where, hint="use a smaller batch")
        sizes = ", ".join(f"{name} {shape_text(array.shape)}" for name, array in feeds.items())
        return ModelError(
            f"ONNX Runtime cannot run this model on {sizes}: {text}",
            where=self._where,
            hint="set other sizes with --input-shape; if random inputs are inconsistent, pass real ones with --inputs",
        )


def _place(array: np.ndarray) -> Tuple[Any, ...]:
    """Return the arguments that bind an array in host memory, without its name."""
    return ("cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)


def _ort_errors() -> Tuple[Type[Exception], ...]:
    # ONNX Runtime's exceptions have no common base class, and newer versions add more.
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
    return (RuntimeError, ValueError, *found)
