"""Choose the inputs for the calibration and evaluation of int8."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from irepdeploy.errors import counted
from irepdeploy.runtime.given_inputs import Given
from irepdeploy.verify.inputs import InputGroup, Wanted, gather_inputs, signature_of
from irepdeploy.verify.samples import Inputs, mapped, samples_in
from irepdeploy.verify.signature import Signature

from .labelled_folders import Classifier, labelled_folders

__all__ = ["CalibrationData", "calibration_data"]

Array = np.ndarray[Any, Any]

_CALIBRATION, _EVALUATION = 128, 1000
_LARGE, _FEW = 64, 32
# With fewer inputs, ranges depend on the choice of the inputs.
_TOO_FEW = 8


@dataclass(frozen=True)
class CalibrationData:
    """Inputs for calibration and for evaluation, and the (N,) classes of the latter if known.

    A function that scores outputs in percent may replace the classes. `is_real` is False for random inputs, which are
    used if nothing is known about a network's data. `remark` is a note about labels.
    """

    calibration: InputGroup
    evaluation: InputGroup
    labels: Array | Callable[[Mapping[str, Array]], float] | None = None
    is_real: bool = True
    remark: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Reasons why the ranges of activations may not be representative."""
        arrays, count = self.calibration.array, self.calibration.count
        fewest = _different(arrays)
        found = [self.remark] if self.remark else []
        if not self.is_real:
            found.append("int8 was calibrated and measured on random inputs: give real ones with --inputs FILE")
        if fewest < _TOO_FEW:
            what = counted(fewest, "input") if fewest == count else f"{fewest} different of {counted(count, 'input')}"
            found.append(f"int8 was calibrated on {what}, whose ranges others may exceed: give {_TOO_FEW} or more")
        every = list(arrays.values()) if isinstance(arrays, Mapping) else [arrays]
        # A mask that accompanies an image may be constant.
        shown = [array for array in every if array.dtype.kind == "f" and array[0].size > 1] or every
        if all((array == array.flat[0]).all() for array in shown):
            value = f"{shown[0].flat[0]:g}"
            found.append(
                f"int8 was calibrated on inputs that are {value} everywhere: give real ones with --inputs FILE"
            )
        return tuple(found)


def _different(inputs: Inputs) -> int:
    """Return the number of distinct inputs, counted only up to the number that is enough."""
    arrays = list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]
    found = set[tuple[bytes, ...]]()
    for index in range(samples_in(inputs)):
        found.add(tuple(array[index].tobytes() for array in arrays))
        if len(found) == _TOO_FEW:
            break
    return len(found)


def calibration_data(
    wanted: Wanted,
    *,
    given: Given | None = None,
    dataset: str | None = None,
    classifier: Classifier | None = None,
    max_drop: float = 0.5,
) -> CalibrationData:
    """Return inputs for calibration, and inputs for evaluation, with labels if they are known.

    Without given inputs these are training images of the data set and its search-validation set; the test set is never
    read. Without a data set of this shape, unlabelled photographs replace both, half of them each. Inputs that are not
    images are random.

    Given inputs replace the training images. Images of class folders are divided and labelled; see `labelled_folders`.

    Args:
        wanted: The inputs, as for `gather_inputs`.
        given: Inputs as for `gather_inputs`.
        dataset: Name of the data set on which the network was trained.
        classifier: The float32 network, if its outputs are scores of classes.
        max_drop: Loss in percentage points that labelled images must be able to show.
    """
    from irepdeploy.data import embedded_dataset, real_inputs

    signature = signature_of(wanted)
    shape = signature.inputs[0].sample
    plain = len(signature.inputs) == 1 and signature.is_plain
    remark = ""
    if plain and classifier is not None and isinstance(given, str | os.PathLike):
        found = labelled_folders(Path(given), signature, dataset, classifier, max_drop)
        if not isinstance(found, str):
            return CalibrationData(found.calibration, found.evaluation, found.labels, remark=found.note)
        remark = found
    own = None if given is None else gather_inputs(signature, given=given, dataset=dataset)[-1]
    if not plain or signature.inputs[0].layout != "chw":
        return _of_several(signature, own, dataset, remark)
    large = max(shape[1:], default=0) > _LARGE
    count = _FEW if large else _CALIBRATION
    data = None if dataset is None else embedded_dataset(dataset)
    if data is not None and data.input_shape == shape:
        most = _FEW if large else _EVALUATION
        train = InputGroup(f"data set {dataset}, training images", data.train.images[:count].numpy())
        val = InputGroup(f"data set {dataset}, search-validation set", data.val.images[:most].numpy())
        return CalibrationData(own or train, val, data.val.labels[:most].numpy(), remark=remark)
    if own is not None:
        return CalibrationData(own, own, remark=remark)
    array, name = real_inputs(shape, 2 * count)
    return CalibrationData(InputGroup(name, array[::2]), InputGroup(name, array[1::2]))


def _of_several(signature: Signature, own: InputGroup | None, dataset: str | None, remark: str) -> CalibrationData:
    if own is not None:
        return CalibrationData(own, own, remark=remark)
    groups = gather_inputs(signature, dataset=dataset)
    name, arrays = groups[-1].name, groups[-1].array
    return CalibrationData(
        InputGroup(name, mapped(arrays, lambda array: array[::2]), groups[-1].seed),
        InputGroup(name, mapped(arrays, lambda array: array[1::2]), groups[-1].seed),
        is_real=len(groups) > 1,
    )
