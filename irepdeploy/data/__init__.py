"""Data sets by name, and real inputs for output comparisons."""

from __future__ import annotations

from irepdeploy.data.augmentation import Augmentation
from irepdeploy.data.dataset import Dataset, DatasetFacts, Images, ObjectDataset, Objects, Split
from irepdeploy.data.given import check_disjoint, held, opened
from irepdeploy.data.inputs import real_inputs
from irepdeploy.data.loader import Loader, in_order
from irepdeploy.data.registry import (
    DATASETS,
    OBJECTS,
    dataset_facts,
    embedded_dataset,
    is_cropped,
    known_dataset,
    load_dataset,
    load_objects,
)
from irepdeploy.data.stream import Stream, StreamLoader

__all__ = [
    "DATASETS",
    "OBJECTS",
    "Augmentation",
    "Dataset",
    "DatasetFacts",
    "Images",
    "Loader",
    "ObjectDataset",
    "Objects",
    "Split",
    "Stream",
    "StreamLoader",
    "check_disjoint",
    "dataset_facts",
    "embedded_dataset",
    "held",
    "in_order",
    "is_cropped",
    "known_dataset",
    "load_dataset",
    "load_objects",
    "opened",
    "real_inputs",
]
