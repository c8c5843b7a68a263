"""Sidecars of engines for tests."""

from __future__ import annotations

from typing import Any

from irepdeploy.board.sidecar import Sidecar
from irepdeploy.files import sha256

__all__ = ["make_sidecar"]


def make_sidecar(content: bytes, **changes: Any) -> Sidecar:
    """Describe an fp16 engine of TensorRT 10.3 for compute capability 8.0, with some fields changed."""
    values: dict[str, Any] = {
        "flavour": "tensorrt",
        "tensorrt_version": "10.3.0.26",
        "compute_capability": "8.0",
        "gpu": "NVIDIA A100-SXM4-40GB",
        "driver": "550.54.15",
        "precision": "fp16",
        "typing": "strong",
        "tf32": False,
        "onnx_sha256": "0" * 64,
        "engine_sha256": sha256(content),
        "size_bytes": len(content),
        "inputs": [{"name": "input", "shape": [1, 3, 8, 8], "dtype": "float32"}],
        "outputs": [{"name": "logits", "shape": [1, 10], "dtype": "float32"}],
        "created": "2026-11-23T12:00:00Z",
        "irepdeploy_version": "0.1.0",
        "command": "irepdeploy export model.onnx --target trt --precision fp16",
    }
    return Sidecar(**{**values, **changes})
