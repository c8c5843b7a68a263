"""Data sets by name, and real inputs for output comparisons."""

from __future__ import annotations

from irepdeploy.data.augmentation import Augmentation
from irepdeploy.data.dataset import Dataset, DatasetFacts, Images, Split
from irepdeploy.data.inputs import random_inputs, real_inputs
from irepdeploy.data.loader import Loader, in_order
from irepdeploy.data.registry import DATASETS, dataset_facts, embedded_dataset, load_dataset

__all__ = [
    "DATASETS",
    "Augmentation",
    "Dataset",
    "DatasetFacts",
    "Images",
    "Loader",
    "Split",
    "dataset_facts",
    "embedded_dataset",
    "in_order",
    "load_dataset",
    "random_inputs",
    "real_inputs",
]
