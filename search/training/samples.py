"""Test images that the training of a detector saves in its folder, for `irepdeploy detect`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from irepdeploy.data import dataset_facts
from irepdeploy.data.coco_files import write_objects
from irepdeploy.reparam.origin import Origin

__all__ = ["SAMPLES", "save_samples"]

SAMPLES = "samples"
_MOST = 8


def save_samples(folder: Path, objects: Any, origin: Origin) -> Path | None:
    """Write the first images of a set and their annotations below a run's folder; return the annotation file.

    Nothing is written for data whose normalization is unknown, such as that of a factory; the result is then None.

    Args:
        folder: Folder of the run.
        objects: Data set, an `Objects`.
        origin: Origin of the network.
    """
    facts = dataset_facts(origin.dataset)
    if facts is None:
        return None
    known = replace(facts, classes=origin.classes or facts.classes)
    return write_objects(folder / SAMPLES, objects, known, range(min(_MOST, len(objects))), prefix="sample")
