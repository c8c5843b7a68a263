"""Write images and their objects as files in COCO format."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from irepdeploy.data.dataset import DatasetFacts, Objects
from irepdeploy.files import write_bytes
from irepdeploy.folders import make_folder

__all__ = ["ANNOTATIONS", "write_objects"]

ANNOTATIONS = "annotations.json"


def write_objects(
    folder: Path, objects: Objects, facts: DatasetFacts, places: Sequence[int], *, prefix: str = "image"
) -> Path:
    """Write images as PNG files into a folder, together with an ``annotations.json`` of their objects.

    Args:
        folder: Destination folder; created if missing.
        objects: Images with their objects.
        facts: Classes and normalization of the images.
        places: Indices of the images to write.
        prefix: Beginning of the file names, followed by the id of the image.

    Returns:
        The path of the annotations.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    make_folder(folder)
    for place in places:
        image, target = objects[place]
        name = f"{prefix}-{target.image_id:06d}.png"
        write_bytes(folder / name, _png(image, facts))
        images.append({"id": target.image_id, "file_name": name, "width": image.shape[2], "height": image.shape[1]})
        corners = target.boxes.double()
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        areas = boxes[:, 2:].prod(1) if target.areas is None else target.areas
        columns = (target.labels, boxes, areas, target.crowd)
        for label, box, area, crowd in zip(*(column.tolist() for column in columns), strict=True):
            entry = {"image_id": target.image_id, "category_id": label + 1, "bbox": box, "area": area}
            annotations.append({"id": len(annotations) + 1, **entry, "iscrowd": int(crowd)})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(facts.classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return write_bytes(folder / ANNOTATIONS, json.dumps(content, allow_nan=False).encode())


def _png(image: Tensor, facts: DatasetFacts) -> bytes:
    from PIL import Image

    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (facts.mean, facts.std))
    pixels = ((image.cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    array = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(array.numpy()).save(buffer, "PNG")
    return buffer.getvalue()
