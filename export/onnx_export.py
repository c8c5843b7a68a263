"""Export of an ONNX file: collapse it, and verify every region and the whole file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from torch import nn

from irepdeploy.console import quoted
from irepdeploy.errors import CheckFailed, InputError, ModelError
from irepdeploy.files import write_bytes
from irepdeploy.onnx_collapse import Collapse, collapse
from irepdeploy.onnx_graph.precision import precision_of
from irepdeploy.onnx_graph.written import write_model
from irepdeploy.reparam.comparator import TOLERANCES
from irepdeploy.verify.input_spec import spec_text
from irepdeploy.verify.inputs import InputGroup, gather_inputs
from irepdeploy.verify.runners import onnx_runner
from irepdeploy.verify.samples import mapped

from .collapse_facts import SWITCHED_OFF, collapse_facts, region_proofs
from .diagnosis.audit import Asked
from .engine.engines import target_here
from .exportable import Exportable
from .job import Form, Job, Outputs
from .onnx_source import OnnxSource, Takes, declare_output_sizes, open_onnx
from .precision.precisions import INT8_OPSET, precisions_of
from .prepared import Prepared
from .request.export_request import ExportRequest
from .target.target import Target, target_of

__all__ = ["OnnxExport"]

_ONNX, _GIVEN = "model.onnx", "given ONNX"
# The operators of a quantized file are kept, so its outputs are held to the same tolerance as floats.
_TOLERANCES = {"fp64": "float32", "fp32": "float32", "int8": "float32", "fp16": "float16", "bf16": "bfloat16"}


class OnnxExport(Exportable):
    """The export of an ONNX file."""

    STEPS = ("collapsed", "compared")

    def __init__(self, source: OnnxSource, groups: Sequence[InputGroup]) -> None:
        self.source, self.groups = source, groups
        self.label, self.facts, self.origin = source.label, source.facts, source.origin
        self.carried = precision_of(source.model)
        self.signature = source.signature

    @classmethod
    def open(cls, request: ExportRequest) -> Self:
        """Read an ONNX file."""
        if request.model_factory is not None:
            raise InputError("an ONNX file needs no class", where="--model", hint="omit it")
        assert not isinstance(request.source, nn.Module)
        target = target_here(target_of(request.target))
        low = INT8_OPSET if "int8" in precisions_of(request.settings.precision, target) else 0
        source = open_onnx(request.source, request.settings, request.inputs, Takes.of(target, low))
        dataset = source.origin.dataset
        return cls(source, gather_inputs(source.signature, given=request.inputs, dataset=dataset, seed=request.seed))

    def versions(self, target: Target) -> tuple[int, int]:
        """Return the versions of the file itself, whatever the target."""
        return self.source.opset, self.source.ir_version

    def prepare(self, job: Job) -> Prepared:
        """Collapse the file, audit the result, and compare the two."""
        source, path = self.source, job.folder / _ONNX
        asked = Asked(opset=source.opset, dynamic_batch=self._dynamic_batch, given=True, axes=source.signature.axes)
        self._check_batch(job)
        job.check_size(source.accepted)
        tolerance = TOLERANCES[_TOLERANCES[self.carried]]
        given = source.content or job.runnable(source.model)
        content, model = self._for_target(job)
        found = self._collapse(model, job) if job.settings.collapse else None
        changed = found is not None and found.changed
        job.report("collapsed")
        outside = job.settings.external_data
        same = isinstance(content, bytes) and not changed and not outside
        if same and self._is_only_precision(job):
            # The bytes are unchanged, so one input of each kind suffices to show that they run.
            self.groups = [replace(group, array=mapped(group.array, lambda each: each[:1])) for group in self.groups]
        reference = Form(_GIVEN, self._reference(job, given))
        if source.accepted is not source.model:
            job.gate(reference, Form(f"opset {source.opset}", job.run(job.runnable(model))), tolerance=tolerance)
        if found is not None and changed:
            self._declare_output_sizes(found.model)
            model = found.model
        if same:
            assert isinstance(content, bytes)
            files: tuple[Path, ...] = (write_bytes(path, content),)
        else:
            files = write_model(model, path, external=outside)
        asked = replace(asked, external=len(files) > 1)
        prepared = Prepared({"fp32": path}, source.specs, asked, reference.outputs, files)
        job.certificate.onnx.update(
            self._audit(job, prepared),
            writer="irepdeploy" if changed else "as given",
            simplifier="not run",
            compared_at=self._compared_at,
            collapse=SWITCHED_OFF if found is None else collapse_facts(found),
            changes=list(source.changes),
            precision=self.carried,
        )
        if found is not None and changed:
            job.certificate.blocks = region_proofs(found.regions)
        if not same:
            prepared = replace(prepared, outputs=job.run(path))
        locate = job.layer_search(source.accepted, path, source.specs)
        job.gate(reference, Form(_ONNX, prepared.outputs), tolerance=tolerance, locate=locate)
        job.report("compared")
        return prepared

    def _collapse(self, model: onnx.ModelProto, job: Job) -> Collapse:
        try:
            return collapse(model, border=job.settings.border)
        except ModelError as error:
            raise type(error)(error.what, where=self.label, hint=error.hint) from error

    def _is_only_precision(self, job: Job) -> bool:
        return {"fp32", self.carried}.issuperset(precisions_of(job.settings.precision, job.target, self.carried))

    def _reference(self, job: Job, content: bytes | Path) -> Outputs:
        """Return the outputs of the given file, which must be finite."""
        try:
            found = job.run_source(onnx_runner(content), onnx_runner(content, optimized=False))
        except ModelError as error:
            raise type(error)(error.what, where=self.label, hint=error.hint) from error
        for name, array in found.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ModelError(f"output {name!r} is NaN or infinite", where=self.label, hint="fix its weights")
        return found

    def _for_target(self, job: Job) -> tuple[bytes | Path | None, onnx.ModelProto]:
        """Return the file if it already has the opset and IR version of the target, and the model in these versions."""
        source, target = self.source, job.target
        model = source.accepted
        if target.engine is None or model.ir_version <= target.ir_version:
            return source.content if model is source.model else None, model
        job.certificate.onnx["ir_version_given"] = model.ir_version
        # A network of float tensors needs nothing that newer versions added to the format.
        model.ir_version = target.ir_version
        for node in model.graph.node:
            del node.metadata_props[:]
        return None, model

    def _declare_output_sizes(self, model: onnx.ModelProto) -> None:
        """Infer output sizes that the file leaves open although all inputs are static."""
        static = all(None not in spec.shape for spec in self.source.specs)
        open_ones = (
            dim for value in model.graph.output for dim in value.type.tensor_type.shape.dim if dim.dim_value < 1
        )
        if static and any(open_ones):
            declare_output_sizes(model)

    def _check_batch(self, job: Job) -> None:
        dynamic = self._dynamic_batch
        if job.target.engine is not None and dynamic and job.settings.dynamic_batch is None:
            raise ModelError(
                "its batch dimension is dynamic, and an engine needs its size or its range",
                where=self.label,
                hint=f"add --input-shape {quoted(self._one_shape)}, or --dynamic-batch 1:8:32",
            )
        if job.settings.dynamic_batch is not None and not dynamic:
            raise ModelError(
                "the batch dimension of this ONNX file is static",
                where=f"{self.label}, --dynamic-batch",
                hint="export the network again with a dynamic batch",
            )

    @property
    def _dynamic_batch(self) -> bool:
        axes = self.source.signature.axes
        return any(spec.shape[axis] is None for spec in self.source.specs if (axis := axes[spec.name]) is not None)

    @property
    def _compared_at(self) -> list[str]:
        """Return the inputs with dynamic sizes, with the sizes of the comparison, in command-line form."""
        return [
            spec_text(spec)
            for spec, own in zip(self.signature.inputs, self.source.specs, strict=True)
            if any(size is None and place != spec.axis for place, size in enumerate(own.shape))
        ]

    @property
    def _one_shape(self) -> str:
        spec = self.source.signature.inputs[0]
        return f"{spec.name}:{'x'.join('1' if size is None else str(size) for size in spec.shape)}"

    def _audit(self, job: Job, prepared: Prepared) -> dict[str, Any]:
        try:
            return job.audit(prepared.onnx, prepared.specs, prepared.asked)
        except CheckFailed as error:
            # Opset, operators and sizes are those of the given file.
            text = _shortened(error.what.removeprefix("the written ONNX is not what was asked for: "))
            raise ModelError(
                f"target {job.target.name} does not accept this ONNX: {text}",
                where=self.label,
                hint="--target ort accepts any opset from 7 to 23" if job.target.engine else None,
            ) from error


def _shortened(faults: str) -> str:
    first, *others = faults.split("; ")
    return f"{first}, and {len(others)} more like it" if others else first
