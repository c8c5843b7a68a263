"""Export of an ONNX file: collapse it, proved region by region and as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from torch import nn

from irepdeploy.errors import CheckFailed, InputError, ModelError
from irepdeploy.files import write_bytes
from irepdeploy.onnx_collapse import collapse
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.verify.equivalence import onnx_runner
from irepdeploy.verify.inputs import InputGroup, gather_inputs

from .collapse_facts import SWITCHED_OFF, collapse_facts, region_proofs
from .diagnosis.audit import Asked
from .exportable import Exportable
from .job import Form, Job, Outputs
from .onnx_source import OnnxSource, open_onnx, with_output_sizes
from .prepared import Prepared
from .request.export_request import ExportRequest
from .target.target import Target

__all__ = ["OnnxExport"]

_ONNX, _GIVEN = "model.onnx", "given ONNX"


class OnnxExport(Exportable):
    """The export of an ONNX file."""

    STEPS = ("collapsed", "compared")

    def __init__(self, source: OnnxSource, groups: Sequence[InputGroup]) -> None:
        self.source, self.groups = source, groups
        self.label, self.facts, self.origin = source.label, source.facts, source.origin

    @classmethod
    def open(cls, request: ExportRequest) -> Self:
        """Read an ONNX file."""
        if request.model_factory is not None:
            raise InputError("an ONNX file needs no class", where="--model", hint="omit it")
        assert not isinstance(request.source, nn.Module)
        source = open_onnx(request.source, request.settings, request.inputs)
        specs, dataset = source.origin.specs, source.origin.dataset
        return cls(source, gather_inputs(specs, given=request.inputs, dataset=dataset, seed=request.seed))

    def versions(self, target: Target) -> tuple[int, int]:
        """Return the versions of the file itself, whatever the target."""
        return self.source.opset, self.source.ir_version

    def prepare(self, job: Job) -> Prepared:
        """Collapse the file, audit the result, and compare the two."""
        source, path = self.source, job.folder / _ONNX
        asked = Asked(opset=source.opset, dynamic_batch=self._dynamic_batch, given=True)
        self._check_batch(job)
        content = self._for_target(job)
        reference = Form(_GIVEN, self._reference(job, content))
        found = collapse(content, border=job.settings.border) if job.settings.collapse else None
        changed = found is not None and found.changed
        write_bytes(path, self._with_output_sizes(found.content) if found is not None and changed else content)
        prepared = Prepared({"fp32": path}, source.specs, asked, reference.outputs, (path,))
        job.certificate.onnx.update(
            self._audit(job, prepared),
            writer="irepdeploy" if changed else "as given",
            simplifier="not run",
            collapse=SWITCHED_OFF if found is None else collapse_facts(found),
        )
        job.report("collapsed")
        if found is not None and changed:
            job.certificate.blocks = region_proofs(found.regions)
            prepared = dataclasses.replace(prepared, outputs=job.run(path))
        locate = job.layer_search(open_model(content), path, source.specs)
        job.gate(reference, Form(_ONNX, prepared.outputs), locate=locate)
        job.report("compared")
        return prepared

    def _reference(self, job: Job, content: bytes) -> Outputs:
        """Return the outputs of the given file, which must be finite."""
        try:
            found = job.run_source(onnx_runner(content), onnx_runner(content, optimized=False))
        except ModelError as error:
            raise type(error)(error.what, where=self.label, hint=error.hint) from error
        for name, array in found.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ModelError(f"output {name!r} is NaN or infinite", where=self.label, hint="fix its weights")
        return found

    def _for_target(self, job: Job) -> bytes:
        """Return the content, with the target's IR version if an engine's builder cannot read the file's own."""
        source, target = self.source, job.target
        if target.engine is None or source.ir_version <= target.ir_version:
            return source.content
        # A network of float tensors needs nothing that newer versions added to the format.
        model = open_model(source.content)
        model.ir_version = target.ir_version
        for node in model.graph.node:
            del node.metadata_props[:]
        job.certificate.onnx["ir_version_given"] = source.ir_version
        return model.SerializeToString(deterministic=True)

    def _with_output_sizes(self, content: bytes) -> bytes:
        """Infer the sizes that the file leaves open in its outputs though all inputs are static."""
        static = all(None not in spec.shape for spec in self.source.specs)
        model = open_model(content)
        open_ones = (
            dim for value in model.graph.output for dim in value.type.tensor_type.shape.dim if dim.dim_value < 1
        )
        return with_output_sizes(model) if static and any(open_ones) else content

    def _check_batch(self, job: Job) -> None:
        dynamic = self._dynamic_batch
        if job.target.engine is not None and dynamic and job.settings.dynamic_batch is None:
            raise ModelError(
                "its batch dimension is dynamic, and an engine needs the range",
                where=self.label,
                hint="add --dynamic-batch 1:8:32",
            )
        if job.settings.dynamic_batch is not None and not dynamic:
            raise ModelError(
                "the batch dimension of this ONNX file is static",
                where=f"{self.label}, --dynamic-batch",
                hint="export the network again with a dynamic batch",
            )

    @property
    def _dynamic_batch(self) -> bool:
        return any(spec.shape[0] is None for spec in self.source.specs)

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
