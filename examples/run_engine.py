"""Run an engine: ``python3 run_engine.py model.engine [input.npy ...]``, with inputs in the engine's order or zeros.

It needs Python 3.8, numpy, the TensorRT that built the engine, and CUDA's runtime library, but not irepdeploy.
"""

import ctypes
import glob
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import tensorrt as trt

path, files = sys.argv[1], sys.argv[2:]
plan, sidecar = Path(path).read_bytes(), json.loads(Path(path + ".json").read_text(encoding="utf-8"))


def runtime():
    # The loader does not find libraries of pip's wheels, and a runtime that is newer than the driver does not work.
    beside = [path for folder in sys.path for path in glob.glob(folder + "/nvidia/*/lib/libcudart.so.*")]
    for name in ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", *sorted(beside)[::-1]):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        if library.cudaGetDeviceCount(ctypes.byref(ctypes.c_int())) == 0:
            return library
    sys.exit("no CUDA runtime library here that finds a GPU and fits its driver")


cuda = runtime()


def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        sys.exit(f"{name} failed with CUDA error {code}")


major, minor = ctypes.c_int(), ctypes.c_int()
for value, attribute in ((major, 75), (minor, 76)):  # cudaDevAttrComputeCapabilityMajor and -Minor
    call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
here = {"engine_sha256": hashlib.sha256(plan).hexdigest(), "tensorrt_version": trt.__version__}
for key, found in {**here, "compute_capability": f"{major.value}.{minor.value}"}.items():
    built = sidecar[key] or found
    if any(one != other for one, other in zip(built.split("."), found.split("."))):
        sys.exit(f"{path}: {key} {built} in its sidecar, {found} here; build it again: {sidecar['command']}")

engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(plan)
if engine is None:
    sys.exit(f"{path}: TensorRT refuses it; its reason is above")
context, arrays, outputs = engine.create_execution_context(), {}, []
names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
for name in sorted(names, key=lambda name: engine.get_tensor_mode(name) != trt.TensorIOMode.INPUT):
    given = None
    if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
        given = np.load(files.pop(0)) if files else np.zeros([max(size, 1) for size in engine.get_tensor_shape(name)])
        if not context.set_input_shape(name, given.shape):
            sys.exit(f"{path}: {name} cannot be of shape {given.shape}")
    # trt.nptype of TensorRT 8.5 needs np.bool, which newer versions of numpy lack.
    kind = engine.get_tensor_dtype(name).name
    dtype = np.dtype({"FLOAT": "float32", "HALF": "float16"}.get(kind, kind.lower()))
    shape = tuple(context.get_tensor_shape(name))
    address, size = ctypes.c_void_p(), int(np.prod(shape)) * dtype.itemsize
    call("cudaMallocManaged", ctypes.byref(address), ctypes.c_size_t(size), 1)  # read here and by the GPU
    arrays[name] = np.frombuffer((ctypes.c_char * size).from_address(address.value), dtype).reshape(shape)
    context.set_tensor_address(name, address.value)
    if given is None:
        outputs.append(name)
    else:
        arrays[name][...] = given

stream = ctypes.c_void_p()
call("cudaStreamCreate", ctypes.byref(stream))
if not context.execute_async_v3(stream.value):
    sys.exit(f"{path}: TensorRT cannot run it; its reason is above")
call("cudaStreamSynchronize", stream)
for name in outputs:
    print(name, arrays[name].shape, arrays[name].ravel()[:10])
