"""Run an engine: ``python3 run_engine.py model.engine [input.npy ...]``, inputs in the engine's order.

Python 3.8 with numpy, the TensorRT that built the engine, and CUDA's runtime library; nothing of irepdeploy.
"""

import ctypes
import hashlib
import json
import sys

import numpy as np
import tensorrt as trt

path, files = sys.argv[1], sys.argv[2:]
with open(path, "rb") as file:
    plan = file.read()
with open(path + ".json", encoding="utf-8") as file:
    sidecar = json.load(file)
cuda = ctypes.CDLL("libcudart.so")


def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        sys.exit(f"{name} failed with CUDA error {code}")


capability = [ctypes.c_int(), ctypes.c_int()]
for value, attribute in zip(capability, (75, 76)):  # cudaDevAttrComputeCapabilityMajor and -Minor
    call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
here = "{}.{}".format(*(value.value for value in capability))
built, installed = sidecar["tensorrt_version"].split("."), trt.__version__.split(".")
if hashlib.sha256(plan).hexdigest() != sidecar["engine_sha256"]:
    sys.exit("{}: truncated or changed since it was built; again: {}".format(path, sidecar["command"]))
if any(one != other for one, other in zip(built, installed)):
    sys.exit("{}: built with TensorRT {}, here is {}".format(path, sidecar["tensorrt_version"], trt.__version__))
if sidecar["compute_capability"] not in (None, here):
    sys.exit("{}: built for compute capability {}, here is {}".format(path, sidecar["compute_capability"], here))

engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(plan)
if engine is None:
    sys.exit(f"{path}: TensorRT refuses it; its reason is above")
context, pointers, arrays = engine.create_execution_context(), {}, {}
names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
for name in inputs + [name for name in names if name not in inputs]:
    if name in inputs:
        shape = tuple(max(size, 1) for size in engine.get_tensor_shape(name))
        array = np.load(files.pop(0)) if files else np.zeros(shape)
        context.set_input_shape(name, array.shape)
    else:
        array = np.zeros(tuple(context.get_tensor_shape(name)))
    arrays[name] = np.ascontiguousarray(array, dtype=trt.nptype(engine.get_tensor_dtype(name)))
    pointers[name] = ctypes.c_void_p()
    call("cudaMalloc", ctypes.byref(pointers[name]), ctypes.c_size_t(arrays[name].nbytes))
    context.set_tensor_address(name, pointers[name].value)


def copy(name, kind):
    on_host, size = ctypes.c_void_p(arrays[name].ctypes.data), ctypes.c_size_t(arrays[name].nbytes)
    to, of = (pointers[name], on_host) if kind == 1 else (on_host, pointers[name])
    call("cudaMemcpy", to, of, size, kind)


for name in inputs:
    copy(name, 1)
stream = ctypes.c_void_p()
call("cudaStreamCreate", ctypes.byref(stream))
if not context.execute_async_v3(stream.value):
    sys.exit(f"{path}: TensorRT cannot run it; its reason is above")
call("cudaStreamSynchronize", stream)
for name in names:
    if name not in inputs:
        copy(name, 2)
        print(name, arrays[name].shape, arrays[name].ravel()[:10])
