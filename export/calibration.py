"""What int8 is calibrated with and measured on: real inputs, apart from each other where there are enough."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from irepdeploy.inputs import InputGroup, gather_inputs

__all__ = ["CalibrationData", "calibration_data"]

Array = np.ndarray[Any, Any]

_CALIBRATION, _EVALUATION = 128, 1000
_LARGE, _FEW = 64, 32


@dataclass(frozen=True)
class CalibrationData:
    """Inputs to take ranges from, and inputs to measure on.

    Args:
        calibration: what the ranges of activations are taken from.
        evaluation: what the loss is measured on.
        labels: (N,) classes of the evaluation inputs, or None.
    """

    calibration: InputGroup
    evaluation: InputGroup
    labels: Array | None = None


def calibration_data(
    shape: tuple[int, ...],
    *,
    given: str | os.PathLike[str] | Array | None = None,
    dataset: str | None = None,
) -> CalibrationData:
    """Calibration on training images and evaluation on the search-validation set, with its labels, of the data set.

    The test set is never read. Without a data set of this shape, photographs take the place of both, unlabelled and
    half of them for each; inputs given take that of the training images.

    Args:
        shape: (C, H, W) of one input.
        given: what `gather_inputs` takes in the place of real inputs.
        dataset: name of the data set that the network was trained on.

    Raises:
        InputError: there are no real inputs of this shape, or those given do not fit.
    """
    from irepdeploy.data import load_dataset, real_inputs

    large = max(shape[1:], default=0) > _LARGE
    count = _FEW if large else _CALIBRATION
    own = None if given is None else gather_inputs(shape, given=given, dataset=dataset)[-1]
    data = None if dataset is None else load_dataset(dataset)
    if data is not None and data.input_shape == tuple(shape):
        most = _FEW if large else _EVALUATION
        train = InputGroup(f"data set {dataset}, training images", data.train.images[:count].numpy())
        val = InputGroup(f"data set {dataset}, search-validation set", data.val.images[:most].numpy())
        return CalibrationData(own or train, val, data.val.labels[:most].numpy())
    if own is not None:
        return CalibrationData(own, own)
    array, name = real_inputs(shape, 2 * count)
    return CalibrationData(InputGroup(name, array[::2]), InputGroup(name, array[1::2]))
