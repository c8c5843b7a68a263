"""Execution providers of ONNX Runtime, and sessions that run only on the requested provider."""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Any, Dict, List, NamedTuple, Optional

from irepdeploy.errors import InputError, MissingError

__all__ = ["PROVIDERS", "Provider", "open_session", "provider_of"]

# NVIDIA's libraries read this variable when they are loaded; 0 disables TF32 in all of them.
TF32_VARIABLE = "NVIDIA_TF32_OVERRIDE"
_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


class Provider(NamedTuple):
    """An execution provider of ONNX Runtime.

    Attributes:
        own_tf32: Whether the provider has an option for TF32. The others leave it to TensorRT, which enables it.
        plugin: Package that contains the provider as a separate library; None if it is part of ONNX Runtime.
    """

    name: str
    device: str
    install: str
    own_tf32: bool = False
    plugin: Optional[str] = None


_GPU = "pip install onnxruntime-gpu in place of onnxruntime"
PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("CPUExecutionProvider", "cpu", "pip install onnxruntime"),
        Provider("CUDAExecutionProvider", "cuda", _GPU, own_tf32=True),
        Provider("TensorrtExecutionProvider", "cuda", _GPU + ", and TensorRT"),
        Provider(
            "NvTensorRTRTXExecutionProvider",
            "cuda",
            "pip install onnxruntime-ep-nv-tensorrt-rtx beside onnxruntime",
            plugin=_PLUGIN,
        ),
    )
}


def provider_of(name: str) -> Provider:
    """Return the provider with this name, or raise InputError."""
    if name not in PROVIDERS:
        raise InputError(f"unknown provider {name!r}", where="ort", hint="one of " + ", ".join(sorted(PROVIDERS)))
    return PROVIDERS[name]


def open_session(onnxruntime: Any, model: Any, options: Any, provider: Provider, *, tf32: bool, where: str) -> Any:
    """Open a session that runs on this provider only and never falls back to another one.

    Raises:
        InputError: TF32 cannot be disabled for this provider.
        MissingError: The provider is missing, or ONNX Runtime chose another one.
        Exception: Any exception that ONNX Runtime raises about the model.
    """
    if provider.device != "cpu":
        # Otherwise operators that the provider does not support would silently run on the CPU.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    found = onnxruntime.get_available_providers()
    if provider.name in found:
        _check_tf32(provider, tf32, where)
        chosen = [(provider.name, _provider_options(provider, tf32))]
        # Otherwise ONNX Runtime replaces a failing provider, now or in a later run. Older versions have only
        # disable_fallback().
        session = onnxruntime.InferenceSession(model, options, providers=chosen, enable_fallback=0)
    elif provider.plugin is not None:
        devices = _plugin_devices(onnxruntime, provider, where)
        _check_tf32(provider, tf32, where)
        options.add_provider_for_devices(devices, {})
        session = onnxruntime.InferenceSession(model, options, enable_fallback=0)
    else:
        raise MissingError(
            f"{provider.name} is not part of the installed onnxruntime",
            where=where,
            hint=f"{provider.install}; here: {', '.join(found)}",
        )
    session.disable_fallback()
    used = session.get_providers()[0]
    if used == "CPUExecutionProvider" != provider.name or (provider.plugin is None and used != provider.name):
        raise MissingError(
            f"ONNX Runtime fell back from {provider.name} to {used}",
            where=where,
            hint="its libraries could not be loaded; to run on the CPU pass provider='CPUExecutionProvider'",
        )
    return session


def has_tf32(provider: Provider, tf32: bool) -> Optional[bool]:
    """Return whether TF32 may be used; None on a CPU, which has no TF32."""
    if provider.device == "cpu":
        return None
    return tf32 and os.environ.get(TF32_VARIABLE) != "0"


def _provider_options(provider: Provider, tf32: bool) -> Dict[str, str]:
    return {"use_tf32": "1" if tf32 else "0"} if provider.own_tf32 else {}


def _check_tf32(provider: Provider, tf32: bool, where: str) -> None:
    rounds = provider.device != "cpu" and not provider.own_tf32
    if rounds and not tf32 and os.environ.get(TF32_VARIABLE) != "0":
        raise InputError(
            f"{provider.name} has no option to disable TF32",
            where=where,
            hint=f"allow TF32, or set {TF32_VARIABLE}=0 before the program starts",
        )


def _plugin_devices(onnxruntime: Any, provider: Provider, where: str) -> List[Any]:
    try:
        plugin = importlib.import_module(str(provider.plugin))
        library, name = plugin.get_library_path(), plugin.get_ep_name()
        register = onnxruntime.register_execution_provider_library
    except (ImportError, AttributeError, OSError) as error:
        raise MissingError(
            f"{provider.name} is not part of the installed onnxruntime, nor installed as a plugin",
            where=where,
            hint=f"{provider.install}; here: {', '.join(onnxruntime.get_available_providers())}",
        ) from error

    def found() -> List[Any]:
        return [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]

    if not found():
        # Registering a library twice raises RuntimeError.
        with contextlib.suppress(RuntimeError):
            register(name, library)
    devices = found()
    if not devices:
        raise MissingError(f"{provider.name} finds no device to run on", where=where, hint="irepdeploy doctor")
    return devices
