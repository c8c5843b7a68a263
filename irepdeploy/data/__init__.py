"""Data sets by name, and real inputs for the checks."""

from __future__ import annotations

from irepdeploy.data.dataset import Dataset, Split
from irepdeploy.data.inputs import random_inputs, real_inputs
from irepdeploy.data.registry import DATASETS, load_dataset

__all__ = ["DATASETS", "Dataset", "Split", "load_dataset", "random_inputs", "real_inputs"]
