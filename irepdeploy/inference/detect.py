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
from irepdeploy.verify.input_files import normalised

__all__ = ["Times", "detect", "detections_of", "fed", "read_picture", "restored"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Times:
    """Milliseconds that one image took: to resize and normalise, in the network, and to map its boxes back."""

    before_ms: float
    network_ms: float
    after_ms: float


def detect(model: str | os.PathLike[str] | nn.Module | OpenedDetector, image: Any, *, score: float = 0.3) -> Detections:
    """Return the objects that a detector finds in an image, the best first.

        found = irepdeploy.detect("runs/d/best.pt", "street.jpg")
        found.draw().save("found.png")

    Args:
        model: A checkpoint, a detector in memory, the name of a network, an ONNX file or an engine; see
            `open_detector`. Opening it takes longer than running it: pass an active `OpenedDetector` for many images.
        image: A file, a Pillow image, or bytes (H, W) or (H, W, 3), RGB.
        score: Detections below it are left out.

    Raises:
        InputError: The model is no detector, or the image is damaged.
    """
    if isinstance(model, OpenedDetector):
        return detections_of(model, _picture(image))[0].above(score)
    with open_detector(model) as opened:
        return detections_of(opened, _picture(image))[0].above(score)


def detections_of(opened: OpenedDetector, picture: Any) -> tuple[Detections, Times]:
    """Return all detections of a Pillow image, in pixels of it, and how long they took."""
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
    """Return a Pillow image as a detector takes it, (C, H, W) float32, and the scales across and down."""
    channels, height, width = facts.input_shape
    resized, scale = facts.resizing.resized(picture.convert("L" if channels == 1 else "RGB"))
    pixels = np.asarray(resized, np.float32).reshape(resized.height, resized.width, channels)
    array = np.zeros((channels, height, width), np.float32)
    array[:, : resized.height, : resized.width] = normalised(pixels, facts.mean, facts.std)
    return array, scale


def restored(found: Detections, scale: tuple[float, float], size: tuple[int, int]) -> Detections:
    """Return detections of an input in pixels of its image of `size` (height, width), cut at the border."""
    factors = found.boxes.new_tensor([*scale, *scale])
    limits = found.boxes.new_tensor([size[1], size[0]] * 2)
    return replace(found, boxes=torch.minimum((found.boxes / factors).clamp(min=0), limits))


def read_picture(path: str | os.PathLike[str]) -> Any:
    """Return an image file as a Pillow image.

    The orientation in its EXIF data is ignored, as COCO does: boxes are in pixels as they are stored.
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
