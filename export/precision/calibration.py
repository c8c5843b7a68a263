"""Choose the inputs that int8 is calibrated with and measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from irepdeploy.verify.inputs import Given, InputGroup, Wanted, gather_inputs, signature_of
from irepdeploy.verify.samples import mapped
from irepdeploy.verify.signature import Signature

__all__ = ["CalibrationData", "calibration_data"]

Array = np.ndarray[Any, Any]

_CALIBRATION, _EVALUATION = 128, 1000
_LARGE, _FEW = 64, 32


@dataclass(frozen=True)
class CalibrationData:
    """Inputs for calibration and for evaluation, and the (N,) classes of the latter if they are known.

    `is_real` is false for random inputs, which stand in where nothing is known of a network's data.
    """

    calibration: InputGroup
    evaluation: InputGroup
    labels: Array | None = None
    is_real: bool = True


def calibration_data(wanted: Wanted, *, given: Given | None = None, dataset: str | None = None) -> CalibrationData:
    """Return training images for calibration, and the labelled search-validation set for evaluation.

    The test set is never read. Without a data set of this shape, unlabelled photographs replace both, half of them
    each; given inputs replace the training images. Inputs that are not images are random.
    """
    from irepdeploy.data import embedded_dataset, real_inputs

    signature = signature_of(wanted)
    own = None if given is None else gather_inputs(signature, given=given, dataset=dataset)[-1]
    shape = signature.inputs[0].sample
    plain = len(signature.inputs) == 1 and signature.is_plain
    if not plain or signature.inputs[0].layout != "chw":
        return _of_several(signature, own, dataset)
    large = max(shape[1:], default=0) > _LARGE
    count = _FEW if large else _CALIBRATION
    data = None if dataset is None else embedded_dataset(dataset)
    if data is not None and data.input_shape == shape:
        most = _FEW if large else _EVALUATION
        train = InputGroup(f"data set {dataset}, training images", data.train.images[:count].numpy())
        val = InputGroup(f"data set {dataset}, search-validation set", data.val.images[:most].numpy())
        return CalibrationData(own or train, val, data.val.labels[:most].numpy())
    if own is not None:
        return CalibrationData(own, own)
    array, name = real_inputs(shape, 2 * count)
    return CalibrationData(InputGroup(name, array[::2]), InputGroup(name, array[1::2]))


def _of_several(signature: Signature, own: InputGroup | None, dataset: str | None) -> CalibrationData:
    if own is not None:
        return CalibrationData(own, own)
    groups = gather_inputs(signature, dataset=dataset)
    name, arrays = groups[-1].name, groups[-1].array
    return CalibrationData(
        InputGroup(name, mapped(arrays, lambda array: array[::2]), groups[-1].seed),
        InputGroup(name, mapped(arrays, lambda array: array[1::2]), groups[-1].seed),
        is_real=len(groups) > 1,
    )
