"""Checks of everything that runs networks: ONNX Runtime's providers, torch, the GPU, CUDA and TensorRT."""

from __future__ import annotations

import os
import platform
import re
import sysconfig
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from irepdeploy.board.system import system_block
from irepdeploy.board.trt_library import FLAVOURS, assembled_folder
from irepdeploy.doctor.check import Check, one_line, run_all
from irepdeploy.doctor.machine import NEVER_PIP, has_gpu, is_jetson
from irepdeploy.doctor.packages import is_there
from irepdeploy.doctor.probes import probe
from irepdeploy.errors import MissingError, RunError

__all__ = ["cuda", "gpu", "providers", "tensorrt", "torch"]

_USED_PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider")
_SYSTEM_SITE = "python3 -m venv --system-site-packages .venv"


def providers() -> list[Check]:
    """Check which listed execution providers can run a session."""
    if not is_there("onnxruntime"):
        return []
    listed, _ = probe("listed_providers")
    checks = run_all({name: partial(_provider, name) for name in listed})
    if has_gpu() and "CUDAExecutionProvider" not in listed:
        note = "this onnxruntime is built without it"
        fix = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        if is_jetson():
            note, fix = f"{note}; NVIDIA has wheels for JetPack", ""
        checks.append(Check("CUDAExecutionProvider", "-", "missing", note, fix))
    return checks


def torch() -> list[Check]:
    """Check the device of torch and its TF32 settings."""
    if not is_there("torch"):
        return []
    state, _ = probe("torch_state")
    return [_torch_device(state), _tf32(state)]


def gpu() -> list[Check]:
    """List the GPUs that nvidia-smi finds."""
    seen = system_block()["gpu"]
    if isinstance(seen, list):
        return [
            Check(
                f"GPU {number}" if len(seen) > 1 else "GPU",
                fields["name"],
                note=f"driver {fields['driver_version']}, compute capability {fields['compute_cap']}",
            )
            for number, fields in enumerate(seen)
        ]
    if is_jetson():
        return [Check("GPU", "of the Jetson", note="its driver is part of L4T")]
    if has_gpu():
        return [Check("GPU", "unknown", "warning", "a device exists, but nvidia-smi does not answer", "nvidia-smi")]
    return [Check("GPU", "-", "missing", "needed only for building and running TensorRT engines")]


def cuda() -> list[Check]:
    """Check the CUDA runtime and its device."""
    facts, _ = probe("cuda")
    missing = facts.get("gpu", "")
    if not missing:
        note = f"{facts['name']}, compute capability {facts['compute_capability']}, driver {facts['driver']}"
        runtime, driver = facts["cuda_runtime"], facts["cuda_driver"]
        return [Check("CUDA", runtime, note=f"the driver supports up to {driver}; {note}")]
    why = one_line(missing.removeprefix("none: "))
    if "libcudart" in why:
        libraries = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/lib/libcudart.so*"))
        fix = "pip install nvidia-cuda-runtime"
        if libraries:
            fix = f"export LD_LIBRARY_PATH={libraries[-1].parent}:$LD_LIBRARY_PATH"
        return [Check("CUDA", "-", "missing", why, fix if has_gpu() else "")]
    return [Check("CUDA", "-", "missing", why)]


def tensorrt(flavour: str) -> list[Check]:
    """Check TensorRT or TensorRT-RTX, and whether it can build engines on this machine."""
    title = FLAVOURS[flavour]
    row = partial(Check, title)
    rtx = flavour == "tensorrt_rtx"
    install = "pip install tensorrt-rtx" if rtx else _install_tensorrt()
    try:
        there = is_there(flavour) or (rtx and assembled_folder() is not None)
    except MissingError as error:
        return [row("-", "missing", f"{error.where}: {error.what}", error.hint or "")]
    if not there and is_jetson():
        return [row("-", "missing", "not for Jetson" if rtx else NEVER_PIP, "" if rtx else _SYSTEM_SITE)]
    if not there and rtx and platform.machine() not in ("x86_64", "AMD64"):
        return [row("-", "missing", "for x86-64 only")]
    if not there:
        return [row("-", "missing", "for --target rtx" if rtx else "for --trt", install)]
    try:
        facts, _ = probe("tensorrt", flavour)
    except RunError as error:
        note = f"installed, but not usable: {one_line(error)}"
        if is_jetson():
            return [row("-", "missing", f"{note}; {NEVER_PIP}", _SYSTEM_SITE)]
        return [row("-", "missing", note, f"pip install --force-reinstall {flavour.replace('_', '-')}")]
    found = facts["title"].removeprefix(title).strip()
    if facts["why"]:
        return [row(found, "missing", f"cannot build here: {one_line(facts['why'])}")]
    if facts["assembled"]:
        return [row(found, "warning", "the builder that `make trt` assembled; its engines are for tests", install)]
    return [row(found, note="builds here")]


def _provider(name: str) -> list[Check]:
    row = partial(Check, name, required=name == "CPUExecutionProvider")
    log = ""
    try:
        used, log = probe("session", name)
        if name in used:
            return [row("loads", note="" if name in _USED_PROVIDERS else "irepdeploy does not use it")]
        why = f"falls back to {used[0]}"
    except RunError as error:
        why = error.what
    library = re.search(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object", f"{log} {why}")
    if library is not None:
        note, fix = f"no {library[1]}; {one_line(why)}", _brings(library[1], name)
    else:
        package = "onnxruntime" if name == "CPUExecutionProvider" else "onnxruntime-gpu"
        note, fix = one_line(why), f"pip install --force-reinstall {package}"
    return [row("-", "missing", f"listed, but does not load: {note}", fix)]


def _brings(library: str, provider: str) -> str:
    """Return the command that makes the loader find `library`."""
    packages = Path(sysconfig.get_path("purelib"))
    found = [*packages.glob(f"nvidia/*/lib/{library}"), *packages.glob(f"tensorrt*libs/{library}")]
    if found:
        folders = sorted({str(path.parent) for path in (*found, *packages.glob("nvidia/*/lib/*.so*"))})
        return f"export LD_LIBRARY_PATH={':'.join(folders)}:$LD_LIBRARY_PATH"
    if is_jetson():
        return "sudo apt-get install nvidia-jetpack"
    if library.startswith("libnv") and provider == "TensorrtExecutionProvider":
        return _install_tensorrt()
    return "pip install 'onnxruntime-gpu[cuda,cudnn]'"


def _torch_device(state: Mapping[str, Any]) -> Check:
    row = partial(Check, "torch device")
    threads = f"{state['threads']} threads"
    if state["gpus"]:
        return row(f"CUDA {state['cuda']}", note=f"{state['gpus']} GPUs, {threads}")
    if state["cuda"]:
        return row("CPU", "warning", f"built for CUDA {state['cuda']}, but sees no GPU; {threads}")
    if has_gpu():
        note = f"built for CPUs, although this machine has a GPU; {threads}"
        return row("CPU", "warning", note, "" if is_jetson() else "pip install --force-reinstall torch")
    return row("CPU", note=f"built for CPUs, {threads}")


def _tf32(state: Mapping[str, Any]) -> Check:
    row = partial(Check, "TF32 in torch")
    if os.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        return row("off", note="NVIDIA_TF32_OVERRIDE=0")
    convolutions, products = state["tf32_conv"], state["tf32_matmul"]
    found = f"convolutions {'on' if convolutions else 'off'}, matrix products {'on' if products else 'off'}"
    if not state["capability"] or state["capability"][0] < 8:
        return row(found, note="no effect: torch sees no GPU with TF32")
    if convolutions or products:
        note = "float32 is rounded to 10 bits; irepdeploy disables it for comparisons"
        return row(found, "warning", note, "export NVIDIA_TF32_OVERRIDE=0")
    return row(found)


def _install_tensorrt() -> str:
    if is_jetson():
        return _SYSTEM_SITE
    return "pip install 'irepdeploy[trt]'"
