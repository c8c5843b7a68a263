"""Export of a network: fuse it, write ONNX, simplify and collapse, with a comparison after every step."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from irepdeploy.detect.detector import Detector
from irepdeploy.errors import CheckFailed, InputError
from irepdeploy.files import write_bytes
from irepdeploy.network.checkpoint import save
from irepdeploy.network.source import Source, with_blocks
from irepdeploy.onnx_collapse import collapse
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.written import write_model
from irepdeploy.profiling.counts import Counts, count
from irepdeploy.profiling.health import network_health
from irepdeploy.reparam.comparator import TOLERANCES, Tolerance
from irepdeploy.reparam.fuse import BlockProof, fuse_with_proof
from irepdeploy.reparam.origin import origin_of
from irepdeploy.verify.certificate import Artefact
from irepdeploy.verify.equivalence import layer_errors
from irepdeploy.verify.input_spec import spec_text
from irepdeploy.verify.inputs import InputGroup, gather_inputs
from irepdeploy.verify.runners import infer_all, network_runner
from irepdeploy.verify.samples import Inputs, named
from irepdeploy.verify.signature import Signature

from .collapse_facts import SWITCHED_OFF, collapse_facts, region_proofs
from .diagnosis.audit import Asked
from .exportable import Exportable
from .job import Form, Job, Locate, Outputs
from .network_source import as_static, asked_batch, metadata_of, open_network, precisions_in, with_signature
from .precision.fp16 import FLOAT32_KEY
from .prepared import Prepared
from .request.export_request import ExportRequest
from .simplify import Simplified, Simplifier
from .target.target import Target
from .writer.torch_exporter import write_onnx

if TYPE_CHECKING:
    from .diagnosis.first_bad_layer import LayerError

__all__ = ["FUSED", "NetworkExport"]

FUSED = "fused.pt"
_ONNX = "model.onnx"
_NETWORK, _FUSED_STATE = "network", "fused state"
# Floating-point types, in order of increasing precision.
_COARSEST = (
    "float4_e2m1fn_x2", "float8_e8m0fnu", "float8_e5m2fnuz", "float8_e5m2", "float8_e4m3fnuz", "float8_e4m3fn",
    "bfloat16", "float16", "float64",
)  # fmt: skip


class NetworkExport(Exportable):
    """The export of a checkpoint, a network by name or a network in memory."""

    STEPS = ("fused", "written", "compared")

    def __init__(
        self, source: Source, signature: Signature, groups: Sequence[InputGroup], given: nn.Module | None = None
    ) -> None:
        self.model, self.signature, self.groups, self.given = source.model, signature, groups, given
        self.label, self.facts, self.origin = source.label, source.facts, source.origin

    @classmethod
    def open(cls, request: ExportRequest) -> Self:
        """Open a network and let its Origin name all inputs and outputs."""
        settings = request.settings
        opened, given = open_network(request)
        source, signature = with_signature(as_static(opened), settings)
        batch = asked_batch(settings, source.origin.specs)
        if batch > 1 and settings.dynamic_batch is None:
            signature = dataclasses.replace(signature, size=batch)
        dataset = source.origin.dataset
        groups = gather_inputs(signature, given=request.inputs, dataset=dataset, seed=request.seed)
        return cls(source, signature, groups, given)

    def versions(self, target: Target) -> tuple[int, int]:
        """Return the versions that the target prefers."""
        return target.opset, target.ir_version

    def prepare(self, job: Job) -> Prepared:
        """Fuse the network, write ONNX, simplify and collapse it."""
        path = job.folder / FUSED
        # The simplifier is started first, since its imports take longer than its work.
        with _started(job) as simplifier, ThreadPoolExecutor(1) as pool:
            network = self._as_float32(job)
            blocks = with_blocks(self.model)
            fused, proofs = (self.model, []) if blocks is None else fuse_with_proof(blocks)
            # Write and hash it while the rest continues.
            saved = pool.submit(lambda: Artefact.of(save(fused, path)))
            final = network
            if blocks is not None:
                final = Form(_FUSED_STATE, _run(fused, job.inputs))
                self._describe_fuse(job, blocks, fused, proofs)
                job.gate(network, final, layers=layer_errors(blocks, fused, self.groups))
            job.report("fused")
            prepared = self._write(job, fused)
            job.report("written")
            job.certificate.onnx["simplifier"] = "not run"
            if simplifier is not None and prepared.asked.external:
                job.certificate.onnx["simplifier"] = "not run: it takes models below 2 GiB"
                simplifier = None
            if simplifier is not None:
                simplifier.begin(prepared.onnx, job.folder / "simpler.onnx")
            prepared = dataclasses.replace(prepared, outputs=job.run(prepared.onnx))
            job.gate(final, Form(_ONNX, prepared.outputs), locate=_module_search(fused, job, prepared))
            if simplifier is not None:
                prepared = _simplified(job, prepared, simplifier.result())
            prepared = _collapsed(job, prepared)
            if final is not network or job.certificate.onnx["collapse"]["changed"]:
                result = Form(_ONNX, prepared.outputs)
                job.gate(network, result, locate=_module_search(self.model, job, prepared))
            if job.settings.external_data and not prepared.asked.external:
                prepared = _moved_outside(job, prepared)
            job.certificate.onnx["parameters"] = _parameters(fused)
            job.report("compared")
            artefact = saved.result()
        return dataclasses.replace(prepared, files=(*prepared.files, path), hashed={path: artefact})

    def _as_float32(self, job: Job) -> Form:
        """Return the outputs of the network in float32, compared with those at its own precision if it differs."""
        found = Form(_NETWORK, job.run_source(network_runner(self.model), network_runner(self.model, plain=True)))
        if self.given is None:
            return found
        precisions = sorted(precisions_in(self.given) - {"float32"}, key=_COARSEST.index)
        written = f"weights of {' and '.join(precisions)} written as float32"
        with network_runner(self.given, self.origin.specs, self.origin.output_names) as runner:
            own = Form(f"network in {precisions[0]}", infer_all(runner, job.inputs))
        # At its own precision, outputs are those of float32, rounded at every layer.
        tolerance = TOLERANCES[precisions[0] if precisions[0] in TOLERANCES else "bfloat16"]
        tolerance = TOLERANCES["float32"] if precisions == ["float64"] else tolerance
        job.gate(own, found, tolerance=tolerance)
        job.certificate.onnx["changes"] = [written]
        return found

    def _describe_fuse(self, job: Job, blocks: nn.Module, fused: nn.Module, proofs: Sequence[BlockProof]) -> None:
        shape = self.origin.input_shape
        sizes = {
            state: count(net, shape) if shape else Counts(_parameters(net), None)
            for state, net in (("train", blocks), ("fused", fused))
        }
        job.certificate.blocks = _summary(proofs)
        job.certificate.health = [layer.to_dict() for layer in network_health(blocks, fused)]
        job.certificate.size = {state: dataclasses.asdict(counts) for state, counts in sizes.items()}

    def _write(self, job: Job, fused: nn.Module) -> Prepared:
        """Write ONNX and audit it, without running it yet."""
        batch = (self.signature.size or 1) if job.settings.dynamic_batch is None else None
        specs = [spec.with_batch(batch) for spec in self.origin.specs]
        metadata = metadata_of(origin_of(fused))
        if isinstance(fused, Detector) and fused.float32:
            metadata[FLOAT32_KEY] = ",".join(fused.float32)
        if job.settings.inputs:
            # verify needs them too: they may not be the sizes that the source stores.
            job.certificate.onnx["compared_at"] = [spec_text(spec) for spec in specs]
        written = write_onnx(fused, specs, self.origin.output_names, target=job.target, metadata=metadata)
        job.check_size(written.model)
        path = job.folder / _ONNX
        files = write_model(written.model, path)
        asked = Asked(
            opset=written.opset, dynamic_batch=batch is None, axes=self.signature.axes, external=len(files) > 1
        )
        described = written.to_dict()
        # Free the weights before the audit reads them again.
        del written
        job.certificate.onnx.update(job.audit(path, specs, asked))
        job.certificate.onnx.update(described)
        return Prepared({"fp32": path}, specs, asked, {}, files)


def _started(job: Job) -> contextlib.AbstractContextManager[Simplifier | None]:
    started = job.simplifier is not None or not job.settings.simplify
    return contextlib.nullcontext(job.simplifier) if started else Simplifier()


def _simplified(job: Job, prepared: Prepared, result: Simplified) -> Prepared:
    """Replace the ONNX file with the simplified one, unless that fails a check."""
    certificate, path = job.certificate, prepared.onnx
    certificate.onnx["simplifier"] = result.note
    if result.content is None:
        return prepared
    original = path.read_bytes()
    write_bytes(path, result.content)
    try:
        certificate.onnx.update(job.audit(path, prepared.specs, prepared.asked))
        outputs = job.run(path)
        locate = job.layer_search(open_model(original), path, prepared.specs)
        job.gate(Form(_ONNX, prepared.outputs), Form("simplified", outputs), locate=locate)
    except (CheckFailed, InputError) as error:
        certificate.onnx["simplifier"] = f"{result.note}, but its model was refused: {error.what}"
        certificate.hops = [hop for hop in certificate.hops if hop.result != "simplified"]
        write_bytes(path, original)
        certificate.onnx.update(job.audit(path, prepared.specs, prepared.asked))
        return prepared
    return dataclasses.replace(prepared, outputs=outputs)


def _collapsed(job: Job, prepared: Prepared) -> Prepared:
    """Replace the ONNX file with the collapsed one, so that user-defined blocks become convolutions too."""
    certificate, path = job.certificate, prepared.onnx
    if not job.settings.collapse:
        certificate.onnx["collapse"] = SWITCHED_OFF
        return prepared
    original = open_model(path)
    found = collapse(original, border=job.settings.border)
    facts = certificate.onnx["collapse"] = collapse_facts(found)
    if not found.changed:
        return prepared
    facts["proofs"] = region_proofs(found.regions)
    before = Form("simplified" if certificate.hops[-1].result == "simplified" else _ONNX, prepared.outputs)
    write_model(found.model, path, external=prepared.asked.external)
    certificate.onnx.update(job.audit(path, prepared.specs, prepared.asked))
    outputs = job.run(path)
    locate = job.layer_search(original, path, prepared.specs)
    job.gate(before, Form("collapsed", outputs), locate=locate)
    return dataclasses.replace(prepared, outputs=outputs)


def _moved_outside(job: Job, prepared: Prepared) -> Prepared:
    """Write the weights to a file next to the ONNX file."""
    path, before = prepared.onnx, Form(_ONNX, prepared.outputs)
    files = write_model(open_model(path), path, external=True)
    asked = dataclasses.replace(prepared.asked, external=True)
    job.certificate.onnx.update(job.audit(path, prepared.specs, asked))
    outputs = job.run(path)
    job.gate(before, Form(f"{_ONNX}, weights outside", outputs))
    return dataclasses.replace(prepared, asked=asked, outputs=outputs, files=files)


def _run(model: nn.Module, inputs: Inputs) -> Outputs:
    with network_runner(model) as runner:
        return infer_all(runner, inputs)


def _module_search(model: nn.Module, job: Job, prepared: Prepared) -> Locate:
    """Return a search for the first module where the ONNX file differs from a network."""

    def locate(tolerance: Tolerance) -> LayerError | None:
        from .diagnosis.first_bad_layer import first_bad_module

        return first_bad_module(model, prepared.onnx, named(job.inputs, prepared.specs), tolerance)

    return locate


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _summary(proofs: Sequence[BlockProof]) -> dict[str, Any]:
    worst = max(proofs, key=lambda proof: proof.error_float64)
    own = max(proofs, key=lambda proof: proof.error_own_dtype)
    return {
        "count": len(proofs),
        "float64": {"worst_layer": worst.layer, "max_rel_error": worst.error_float64},
        own.dtype: {"worst_layer": own.layer, "max_rel_error": own.error_own_dtype},
    }
