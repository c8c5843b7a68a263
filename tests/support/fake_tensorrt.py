"""Fake TensorRT modules, one for each version whose Python API differs, with exactly the names of that version.

They replace versions that cannot run where the tests do. A fake builder records every call, its engine holds the inputs
and outputs of the model, and its runtime computes ``outputs = sum of each example * (1, 2, 3, ...)`` from the memory of
a `FakeCudart` when the stream reaches it. The numbers behind the names differ between versions as in their headers, so
nothing may rely on them. If a rule of the real library is enforced, its source is named.
"""

from __future__ import annotations

import enum
import functools
import importlib
import importlib.util
import json
import math
import sys
import weakref
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["VERSIONS", "FakeTensorrt", "Severity"]

VERSIONS = ("8.5.2.2", "8.6.1.6", "9.1.0.4", "10.3.0.26", "10.10.0.31", "11.1.0.106")

# Next to this file, even when it is copied to a board without its package.
_cudart = importlib.import_module(f"{__package__}.fake_cudart" if __package__ else "fake_cudart")

_NETWORK_FLAGS = {
    8: {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1},
    9: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    11: {"STRONGLY_TYPED": 0},
}
_BUILDER_FLAGS = {
    "8.5": {"FP16": 0, "INT8": 1, "DEBUG": 2, "GPU_FALLBACK": 3, "REFIT": 5, "TF32": 7},
    "8.6": {"FP16": 0, "INT8": 1, "DEBUG": 2, "GPU_FALLBACK": 3, "REFIT": 5, "TF32": 7, "VERSION_COMPATIBLE": 15},
    "9": {"FP16": 0, "INT8": 1, "DEBUG": 2, "GPU_FALLBACK": 3, "REFIT": 5, "TF32": 7, "VERSION_COMPATIBLE": 15},
    "10": {"FP16": 0, "INT8": 1, "DEBUG": 2, "GPU_FALLBACK": 3, "REFIT": 4, "TF32": 6, "VERSION_COMPATIBLE": 13},
    "11": {"DEBUG": 0, "GPU_FALLBACK": 1, "REFIT": 2, "TF32": 5, "VERSION_COMPATIBLE": 9},
}
_DTYPES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF"}
_NUMPY = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32", "INT64": "int64"}
Severity = enum.Enum("Severity", ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"))
# Layers in the verbose log of a builder, in the formats of published logs; without detailed verbosity, names only.
_NAMES_ONLY = {
    # github.com/NVIDIA/TensorRT/issues/1437
    "8.5": "Engine Layer Information:\n"
    "Layer(CaskConvolution): conv + relu, Tactic: 0x1, input[Half(1,3,8,8)] -> a[Half(1,3,8,8)]",
    # github.com/NVIDIA/TensorRT/issues/4397
    "": "Engine Layer Information:\n"
    "Layer(CaskConvolution): conv + relu, Tactic: 0x1, input (Half[1,3,8,8]) -> a (Half[1,3,8,8])",
}
_TENSOR_8 = "Location: Device, Dimensions: [1,3,8,8], Format/Datatype: Channel major FP16 format where channel % 8 == 0"
_DETAILED = {
    # github.com/NVIDIA/TensorRT/issues/2418 (8.5), 3583 (9.1)
    "8": "Engine Layer Information:\n"
    f"Name: conv + relu, LayerType: CaskConvolution, Inputs: [ {{ Name: input, {_TENSOR_8} }}], "
    f"Outputs: [ {{ Name: a, {_TENSOR_8} }}], ParameterType: Convolution, Kernel: [3,3], "
    'Weights: {"Type": "Half", "Count": 27}, Activation: RELU, TacticValue: 0x1, StreamId: 0, Metadata: ',
    # github.com/NVIDIA/TensorRT/issues/4397 (10.10)
    "10": "Layers:\n"
    "Name: conv + relu, LayerType: CaskConvolution, Inputs: [ { Name: input, Dimensions: [1,3,8,8], "
    "Format/Datatype: Half }], Outputs: [ { Name: a, Dimensions: [1,3,8,8], Format/Datatype: Half }], StreamId: 0",
    # Output of the builder of TensorRT-RTX 1.7.1, observed here.
    "11": "Layers:\n"
    "Name: conv_U3_myl0_1, LayerType: correlation, Inputs: [ { Name: input, Dimensions: [1,3,8,8], Datatype: Half, "
    "Format: (NHWC) Channel major format }], Outputs: [ { Name: a, Datatype: Half }], StreamId: 0",
}


def _enum(name: str, members: Mapping[str, int] | Sequence[str]) -> Any:
    pairs = members if isinstance(members, Mapping) else {member: number for number, member in enumerate(members)}
    return enum.IntEnum(name, dict(pairs))


class FakeTensorrt(SimpleNamespace):
    """A module of one version.

    Args:
        version: One of `VERSIONS`.
        dla_cores: Number of DLA cores.
        builds: None for success, else the error that the builder logs before it returns None.
        loads: None for success, else the error that the runtime logs before it returns None.
        runs: None for success, else the error that a context logs before it returns False.
        captured: Behaviour of a context on a capturing stream: "well"; "refuses" to run and leaves the stream
            unchanged; "waits" for the stream, which invalidates the capture (both in endCaptureOnError of
            NVIDIA/TensorRT, samples/common/sampleDevice.h).
    """

    def __init__(
        self,
        version: str,
        *,
        dla_cores: int = 0,
        builds: str | None = None,
        loads: str | None = None,
        runs: str | None = None,
        captured: str = "well",
    ) -> None:
        major = int(version.partition(".")[0])
        super().__init__(
            __version__=version,
            __file__=None,
            dla_cores=dla_cores,
            builds=builds,
            loads=loads,
            runs=runs,
            captured=captured,
            calls=[],
            current_logger=None,
            users=weakref.WeakSet(),
            ILogger=_Logger,
            OnnxParser=_Parser,
            Runtime=lambda logger: _Runtime(self, logger),
            Builder=lambda logger: _Builder(self, logger),
            NetworkDefinitionCreationFlag=_enum("NetworkDefinitionCreationFlag", _NETWORK_FLAGS[major]),
            BuilderFlag=_enum("BuilderFlag", _BUILDER_FLAGS[version[:3] if major == 8 else str(major)]),
            ProfilingVerbosity=_enum("ProfilingVerbosity", ("LAYER_NAMES_ONLY", "DETAILED", "NONE")),
            MemoryPoolType=_enum("MemoryPoolType", ("WORKSPACE", "DLA_MANAGED_SRAM")),
            DeviceType=_enum("DeviceType", ("GPU", "DLA")),
            DataType=_enum("DataType", tuple(_DTYPES.values())),
            TensorIOMode=_enum("TensorIOMode", ("NONE", "INPUT", "OUTPUT")),
        )
        if major >= 10:
            self.IProgressMonitor = type("IProgressMonitor", (), {})

    @property
    def major(self) -> int:
        """Major version: 8, 9, 10 or 11."""
        return int(self.__version__.partition(".")[0])

    def logger_for(self, user: Any, logger: Any) -> Any:
        """Return the logger that a new builder or runtime actually uses.

        All share one logger while any of them is alive, with a warning (NVIDIA/TensorRT#1475). In TensorRT 11 each has
        its own, with a warning (seen with TensorRT-RTX 1.7.1, whose bindings are those of 11.4).
        """
        if not self.users:
            self.current_logger = logger
        if self.current_logger is not logger:
            text = "The logger passed into createInferRuntime differs from one already provided for an existing builder"
            (logger if self.major >= 11 else self.current_logger).log(Severity.WARNING, text)
        self.users.add(user)
        return logger if self.major >= 11 else self.current_logger


class _Logger:
    def log(self, severity: Any, message: str) -> None: ...


def _layers(trt: FakeTensorrt, config: _Config) -> str:
    if config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED:
        return _DETAILED[{9: "8"}.get(trt.major, str(trt.major))]
    return _NAMES_ONLY["8.5" if trt.__version__.startswith("8.5") else ""]


class _Builder:
    def __init__(self, trt: FakeTensorrt, logger: Any) -> None:
        self.trt, self.num_DLA_cores = trt, trt.dla_cores
        self.logger = trt.logger_for(self, logger)

    def create_network(self, flags: int) -> Any:
        self.trt.calls.append(("create_network", flags))
        return SimpleNamespace(trt=self.trt, num_inputs=0, num_outputs=0, num_layers=0)

    def create_builder_config(self) -> Any:
        return (_WatchedConfig if self.trt.major >= 10 else _Config)(self.trt)

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(set_shape=lambda *shapes: self.trt.calls.append(("set_shape", *shapes)))

    def build_serialized_network(self, network: Any, config: _Config) -> bytes | None:
        self.trt.calls.append(("build", sorted(flag.name for flag in config.set)))
        self.trt.config = config
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building engine", None, 2)
            monitor.phase_start("Computing profile costs", "Building engine", 9)
            for step in range(2):
                monitor.step_complete("Building engine", step)
            monitor.phase_finish("Building engine")
        if self.trt.builds is not None:
            self.logger.log(Severity.WARNING, "something to note")
            self.logger.log(Severity.ERROR, self.trt.builds)
            return None
        self.logger.log(Severity.VERBOSE, _layers(self.trt, config))
        if config.DLA_core >= 0:
            for line in ("[DlaLayer] {ForeignNode[conv...relu]}", "[GpuLayer] SHUFFLE: flatten"):
                self.logger.log(Severity.INFO, line)
        numbers = [int(part) for part in self.trt.__version__.split(".")]
        header = b"ftrt" + bytes(20) + bytes(numbers)
        return header + json.dumps(network.described).encode()


class _Config:
    # Like TensorRT's own class, this rejects unknown attributes.
    __slots__ = ("DLA_core", "cache", "default_device_type", "profiling_verbosity", "set", "trt")

    def __init__(self, trt: FakeTensorrt) -> None:
        self.trt = trt
        # TF32 is on unless it is cleared.
        self.set = {trt.BuilderFlag.TF32}
        # TensorRT's default (IBuilderConfig.profiling_verbosity).
        self.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY
        self.DLA_core = -1

    def set_flag(self, flag: Any) -> None:
        self.set.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.set.discard(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.trt.calls.append(("set_memory_pool_limit", pool.name, size))

    def add_optimization_profile(self, profile: Any) -> None:
        self.trt.calls.append(("add_optimization_profile",))

    def can_run_on_DLA(self, layer: Any) -> bool:  # noqa: N802
        return layer != "Flatten"

    def create_timing_cache(self, content: bytes) -> Any:
        # Null for an unreadable cache, such as one of another version (8.6: "Magic tag does not match",
        # NVIDIA/TensorRT#3566).
        if content.startswith((b"damaged", b"version")):
            return None
        return SimpleNamespace(content=content, serialize=lambda: content + b"timed")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache is None:
            # Message of pybind11 for TensorRT-RTX 1.7.1.
            raise TypeError("set_timing_cache(): incompatible function arguments.")
        self.cache = cache
        return not cache.content.startswith(b"foreign") or ignore_mismatch

    def get_timing_cache(self) -> Any:
        return self.cache


class _WatchedConfig(_Config):
    __slots__ = ("progress_monitor",)

    def __init__(self, trt: FakeTensorrt) -> None:
        super().__init__(trt)
        self.progress_monitor: Any = None


class _Parser:
    def __init__(self, network: Any, logger: Any) -> None:
        self.network, self.errors = network, list[Any]()

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, index: int) -> Any:
        return self.errors[index]

    def parse(self, content: bytes) -> bool:
        graph, network, trt = _messages().ModelProto.FromString(content).graph, self.network, self.network.trt
        for node in graph.node:
            if node.op_type == "Unknown":
                self.errors.append(SimpleNamespace(desc=lambda: "no importer\nfor operator Unknown", node=lambda: 0))
        described = {
            "inputs": [_described(one) for one in graph.input],
            "outputs": [_described(one) for one in graph.output],
        }
        network.described = described
        for kind in ("input", "output"):
            tensors = [
                SimpleNamespace(name=one["name"], shape=tuple(one["shape"]), dtype=trt.DataType[one["dtype"]])
                for one in described[f"{kind}s"]
            ]
            setattr(network, f"get_{kind}", tensors.__getitem__)
            setattr(network, f"num_{kind}s", len(tensors))
        layers = [node.op_type for node in graph.node]
        network.get_layer, network.num_layers = layers.__getitem__, len(layers)
        return not self.errors


@functools.cache
def _messages() -> Any:
    """Load ONNX's messages without the onnx package, whose import takes longer than a build here."""
    package = sys.modules.get("onnx")
    if package is not None:
        return package
    folder = importlib.util.find_spec("onnx").submodule_search_locations[0]  # type: ignore[union-attr,index]
    spec = importlib.util.spec_from_file_location("onnx_ml_pb2", f"{folder}/onnx_ml_pb2.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def _described(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    return {"name": value.name, "shape": shape, "dtype": _DTYPES[tensor.elem_type]}


class _Runtime:
    def __init__(self, trt: FakeTensorrt, logger: Any) -> None:
        self.trt = trt
        self.logger = trt.logger_for(self, logger)
        # 0 of several, unless it is set before an engine is loaded (microsoft/onnxruntime#28364).
        self.DLA_core = 0

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if self.trt.loads is not None:
            self.logger.log(Severity.ERROR, self.trt.loads)
            return None
        self.trt.calls.append(("deserialize", self.DLA_core))
        return _Engine(self.trt, json.loads(plan[28:]), self.logger)


class _Engine:
    def __init__(self, trt: FakeTensorrt, described: dict[str, Any], logger: Any) -> None:
        self.trt, self.logger = trt, logger
        self.tensors = {one["name"]: one for one in (*described["inputs"], *described["outputs"])}
        self.outputs = [one["name"] for one in described["outputs"]]
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode.OUTPUT if name in self.outputs else self.trt.TensorIOMode.INPUT

    def get_tensor_shape(self, name: str) -> Any:
        return tuple(self.tensors[name]["shape"])

    def get_tensor_dtype(self, name: str) -> Any:
        return self.trt.DataType[self.tensors[name]["dtype"]]

    def create_execution_context(self) -> Any:
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.shapes = {name: engine.get_tensor_shape(name) for name in engine.tensors}
        self.addresses: dict[str, int] = {}
        # Part of it is set up in the first run after the shapes were set (NVIDIA/trt-samples-for-hackathon-cn#76).
        self.ready = False

    def set_input_shape(self, name: str, shape: Any) -> bool:
        due = self.engine.get_tensor_shape(name)
        if shape[0] > 8 or any(size not in (-1, given) for size, given in zip(due, shape, strict=True)):
            return False
        self.shapes[name] = tuple(shape)
        self.ready = False
        for output in self.engine.outputs:
            self.shapes[output] = (shape[0], *self.engine.get_tensor_shape(output)[1:])
        return True

    def get_tensor_shape(self, name: str) -> Any:
        return self.shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        trt, cuda = self.engine.trt, _cudart.owner_of(stream)
        if trt.runs is not None:
            return self._refuse(trt.runs)
        if cuda.streams[stream].capture:
            if trt.captured == "refuses":
                return self._refuse("this engine cannot be captured")
            if not self.ready or trt.captured == "waits":
                # NVIDIA/TensorRT#2603 (8.5.2.2): the call returns false, and the capture is invalid.
                cuda.cudaStreamSynchronize(SimpleNamespace(value=stream))
                return self._refuse("Cuda Runtime (operation not permitted when stream is capturing)")
        self.ready = True
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        return cuda.enqueue(stream, lambda: self._compute(shapes, addresses)) == 0 or self._refuse("Cuda Runtime (400)")

    def _refuse(self, why: str) -> bool:
        self.engine.logger.log(Severity.ERROR, why)
        return False

    def _compute(self, shapes: dict[str, Any], addresses: dict[str, int]) -> None:
        def memory(name: str) -> Any:
            dtype = np.dtype(_NUMPY[self.engine.tensors[name]["dtype"]])
            buffer = _cudart.memory_at(addresses[name], math.prod(shapes[name]) * dtype.itemsize)
            return np.frombuffer(buffer, dtype).reshape(shapes[name])

        total: Any = 0
        for name in shapes:
            if name not in self.engine.outputs:
                array = memory(name)
                total = total + array.reshape(len(array), -1).astype("float64").sum(1, keepdims=True)
        for name in self.engine.outputs:
            output = memory(name)
            output[...] = (total * np.arange(1, output[0].size + 1)).reshape(output.shape)
