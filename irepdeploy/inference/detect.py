"""Detect objects in images."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from irepdeploy.data.decoding import open_image
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.facts import DetectorFacts
from irepdeploy.errors import InputError
from irepdeploy.inference.opened import OpenedDetector, open_detector
from irepdeploy.verify.input_files import normalized

__all__ = ["Times", "detect", "detections_of", "fed", "read_picture", "restored"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Times:
    """Times for one image in ms: to resize and normalize it, in the network, and to map its boxes back."""

    before_ms: float
    network_ms: float
    after_ms: float


def detect(model: str | os.PathLike[str] | nn.Module | OpenedDetector, image: Any, *, score: float = 0.3) -> Detections:
    """Return the objects that a detector finds in an image, highest score first.

        found = irepdeploy.detect("runs/d/best.pt", "street.jpg")
        found.draw().save("found.png")

    Args:
        model: A checkpoint, a detector in memory, the name of a network, an ONNX file or an engine; see
            `open_detector`. Opening takes longer than running, so pass an active `OpenedDetector` for many images.
        image: A file, a Pillow image, or a uint8 array (H, W) or (H, W, 3), RGB.
        score: Minimum score of the returned detections.

    Raises:
        InputError: The model is not a detector, or the image is damaged.
        MissingError: The model is an engine, and TensorRT or a GPU is missing.
    """
    if isinstance(model, OpenedDetector):
        return detections_of(model, _picture(image))[0].above(score)
    with open_detector(model) as opened:
        return detections_of(opened, _picture(image))[0].above(score)


def detections_of(opened: OpenedDetector, picture: Any) -> tuple[Detections, Times]:
    """Return all detections in a Pillow image, in pixels of that image, and the times they took."""
    start = time.perf_counter()
    array, scale = fed(opened.facts, picture)
    ready = time.perf_counter()
    outputs = opened.infer(array)
    given = time.perf_counter()
    count = int(outputs["num_dets"][0, 0])
    found = Detections(
        torch.from_numpy(outputs["boxes"][0, :count].astype(np.float32)),
        torch.from_numpy(np.array(outputs["scores"][0, :count], np.float32)),
        torch.from_numpy(outputs["classes"][0, :count].astype(np.int64)),
        opened.facts.classes,
        (),
        picture,
    )
    found = restored(found, scale, (picture.height, picture.width))
    done = time.perf_counter()
    return found, Times(*(1000 * span for span in (ready - start, given - ready, done - given)))


def fed(facts: DetectorFacts, picture: Any) -> tuple[Array, tuple[float, float]]:
    """Convert a Pillow image to the input of a detector, (C, H, W) float32; also return the scales of x and y."""
    channels, height, width = facts.input_shape
    resized, scale = facts.resizing.resized(picture.convert("L" if channels == 1 else "RGB"))
    pixels = np.asarray(resized, np.float32).reshape(resized.height, resized.width, channels)
    array = np.zeros((channels, height, width), np.float32)
    array[:, : resized.height, : resized.width] = normalized(pixels, facts.mean, facts.std)
    return array, scale


def restored(found: Detections, scale: tuple[float, float], size: tuple[int, int]) -> Detections:
    """Convert detections from pixels of the input to pixels of the image of `size` (height, width), clipped to it."""
    factors = found.boxes.new_tensor([*scale, *scale])
    limits = found.boxes.new_tensor([size[1], size[0]] * 2)
    return replace(found, boxes=torch.minimum((found.boxes / factors).clamp(min=0), limits))


def read_picture(path: str | os.PathLike[str]) -> Any:
    """Read an image file as a Pillow image.

    The orientation in the EXIF data is ignored, as in COCO, because boxes are in pixels of the stored image.
    """
    with open_image(path) as opened:
        return opened.convert("L" if opened.mode in ("1", "L") else "RGB")


def _picture(image: Any) -> Any:
    from PIL import Image

    if isinstance(image, str | os.PathLike):
        return read_picture(Path(image))
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        return Image.fromarray(image)
    kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise InputError(f"expected a file, a Pillow image, or bytes (H, W) or (H, W, 3), got {kind}", where="image")
