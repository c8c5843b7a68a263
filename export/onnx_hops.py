"""From a given ONNX file to its collapsed form, proved region by region and as a whole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irepdeploy.errors import CheckFailed, ModelError
from irepdeploy.files import write_bytes
from irepdeploy.onnx_collapse import Collapse, Region, collapse
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.verify.certificate import Certificate
from irepdeploy.verify.equivalence import infer_all, onnx_runner
from irepdeploy.verify.inputs import InputGroup

from .deployment import ONNX, Deployment, Report
from .diagnosis.audit import Asked
from .onnx_source import OnnxSource, with_output_sizes
from .request.settings import Settings
from .target.target import Target

__all__ = ["OnnxExport", "collapse_facts", "region_facts"]

_GIVEN = "given ONNX"

Array = np.ndarray[Any, Any]


class OnnxExport(Deployment):
    """The export of an ONNX file."""

    def __init__(
        self,
        source: OnnxSource,
        target: Target,
        groups: Sequence[InputGroup],
        certificate: Certificate,
        staging: Path,
        settings: Settings,
    ) -> None:
        super().__init__(source, target, groups, certificate, staging, settings)
        self.source = source

    def prepare(self, report: Report) -> None:
        """Collapse what was given, audit the result, and hold it against what was given."""
        source = self.source
        self.specs, self.files, self.models = source.specs, [self.onnx], {"fp32": self.onnx}
        dynamic = any(spec.shape[0] is None for spec in source.specs)
        self.asked = Asked(opset=source.opset, dynamic_batch=dynamic, given=True)
        self._check_batch()
        content = self._for_target(source.content)
        reference = self._reference(content)
        found = collapse(content, border=self.settings.border) if self.settings.collapse else None
        changed = found is not None and found.changed
        write_bytes(self.onnx, self._declared(found.content) if found is not None and changed else content)
        self._audit()
        self.certificate.onnx.update(
            writer="irepdeploy" if changed else "as given",
            simplifier="not run",
            collapse={"changed": False, "note": "collapse is switched off"} if found is None else collapse_facts(found),
        )
        report("collapsed")
        self.onnx_outputs = reference
        if found is not None and changed:
            self.certificate.blocks = _proofs(found.regions)
            self.onnx_outputs = self.run_onnx()
        original = open_model(content)
        self.gate(_GIVEN, ONNX, reference, self.onnx_outputs, locate=self.layer(original, self.onnx))
        report("compared")

    def _reference(self, content: bytes) -> dict[str, Array]:
        """What the file given answers.

        Raises:
            ModelError: ONNX Runtime does not run it, or it answers NaN or infinity.
        """
        try:
            with onnx_runner(content) as runner:
                found = infer_all(runner, self.inputs)
        except ModelError as error:
            raise type(error)(error.what, where=self.label, hint=error.hint) from error
        for name, array in found.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ModelError(f"output {name!r} holds NaN or infinity", where=self.label, hint="mend its weights")
        return found

    def _for_target(self, content: bytes) -> bytes:
        """The bytes given; with the target's IR version where the file's is newer than an engine's builder takes."""
        if self.target.engine is None or self.source.ir_version <= self.target.ir_version:
            return content
        # What newer versions added to the format is of no use to a network of float tensors.
        model = open_model(content)
        model.ir_version = self.target.ir_version
        for node in model.graph.node:
            del node.metadata_props[:]
        self.certificate.onnx["ir_version_given"] = self.source.ir_version
        return model.SerializeToString(deterministic=True)

    def _declared(self, content: bytes) -> bytes:
        """A collapsed model with the sizes of its outputs, where the file given leaves some open that follow."""
        fixed = all(None not in spec.shape for spec in self.specs)
        model = open_model(content)
        open_ones = (
            dim for value in model.graph.output for dim in value.type.tensor_type.shape.dim if dim.dim_value < 1
        )
        return with_output_sizes(model) if fixed and any(open_ones) else content

    def _check_batch(self) -> None:
        if self.target.engine is not None and self.asked.dynamic_batch and self.settings.dynamic_batch is None:
            raise ModelError(
                "its batch is free, and an engine must be told its range",
                where=self.label,
                hint="add --dynamic-batch 1:8:32",
            )
        if self.settings.dynamic_batch is not None and not self.asked.dynamic_batch:
            raise ModelError(
                "the batch of this ONNX file is not free",
                where=f"{self.label}, --dynamic-batch",
                hint="export the network again with a free batch",
            )

    def _audit(self) -> None:
        try:
            self.certificate.onnx.update(self.audited(self.onnx, self.asked))
        except CheckFailed as error:
            # Opset, operators and sizes are those of the file given.
            text = _shortened(error.what.removeprefix("the written ONNX is not what was asked for: "))
            raise ModelError(
                f"target {self.target.name} does not take this ONNX: {text}",
                where=self.label,
                hint="--target ort takes any opset from 7 to 23" if self.target.engine else None,
            ) from error


def _shortened(faults: str) -> str:
    first, *others = faults.split("; ")
    return f"{first}, and {len(others)} more like it" if others else first


def collapse_facts(found: Collapse) -> dict[str, Any]:
    """What a certificate keeps of a collapse."""
    before, after = found.operators_before, found.operators_after
    return {
        "changed": found.changed,
        "convolutions": {"before": before["Conv"], "after": after["Conv"]},
        "nodes": {"before": sum(before.values()), "after": sum(after.values())},
        "regions": [region_facts(region) for region in found.regions],
    }


def region_facts(region: Region) -> dict[str, Any]:
    """One region as a JSON object."""
    facts = dataclasses.asdict(region)
    facts["operators_in"], facts["operators_out"] = dict(region.operators_in), dict(region.operators_out)
    return {**facts, "collapsed": region.collapsed}


def _proofs(regions: Sequence[Region]) -> dict[str, Any]:
    """Worst float64 errors, inside and at the border."""
    proved = [region for region in regions if region.collapsed]
    worst = max(proved, key=lambda region: _error(region.error_interior), default=None)
    border = max(proved, key=lambda region: _error(region.error_border), default=None)
    if worst is None or border is None:
        return {}
    return {
        "count": len(proved),
        "float64": {"worst_layer": worst.name, "max_rel_error": worst.error_interior or 0.0},
        "float64 at the border": {"worst_layer": border.name, "max_rel_error": border.error_border or 0.0},
    }


def _error(error: float | None) -> float:
    return -math.inf if error is None else error
