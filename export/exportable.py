"""The interface of everything that can be exported."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from irepdeploy.reparam.origin import Origin
from irepdeploy.verify.inputs import InputGroup
from irepdeploy.verify.signature import Signature

from .job import Job
from .prepared import Prepared
from .request.export_request import ExportRequest
from .target.target import Target

__all__ = ["Exportable"]


class Exportable(abc.ABC):
    """An opened source of an export.

    Attributes:
        STEPS: Names of the steps that `prepare` reports.
        carried: Precision of the weights: "fp32" unless a file was given in another one.
        signature: The inputs, and where the batch is.
        groups: Inputs to compare every form on.
    """

    STEPS: ClassVar[tuple[str, ...]]

    carried = "fp32"
    label: str
    facts: dict[str, Any]
    origin: Origin
    signature: Signature
    groups: Sequence[InputGroup]

    @classmethod
    @abc.abstractmethod
    def open(cls, request: ExportRequest) -> Self:
        """Open the source of a request and gather the inputs to compare on.

        Raises:
            InputError: The source cannot be opened, or an option or the inputs do not fit it.
        """

    @abc.abstractmethod
    def versions(self, target: Target) -> tuple[int, int]:
        """Return the opset and the IR version of the ONNX file to be written for a target."""

    @abc.abstractmethod
    def prepare(self, job: Job) -> Prepared:
        """Write the fp32 ONNX file and verify it.

        Raises:
            CheckFailed: A check failed.
            ModelError: The target does not accept the model.
        """
