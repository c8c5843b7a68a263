"""From a network to its ONNX: what each hop makes, and its comparison with the one before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from irepdeploy.errors import CheckFailed, InputError
from irepdeploy.files import write_bytes
from irepdeploy.network.checkpoint import save
from irepdeploy.network.source import Source, with_blocks
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.profiling.counts import Counts, count
from irepdeploy.profiling.health import network_health
from irepdeploy.reparam.comparator import Tolerance
from irepdeploy.reparam.fuse import BlockProof, fuse_with_proof
from irepdeploy.reparam.origin import origin_of
from irepdeploy.verify.certificate import Artefact, Certificate
from irepdeploy.verify.equivalence import infer_all, layer_errors, network_runner
from irepdeploy.verify.inputs import InputGroup, named

from .deployment import ONNX, Deployment, Locate, Report
from .diagnosis.audit import Asked
from .request.settings import Settings
from .simplify import Simplified, Simplifier
from .source import metadata_of
from .target.target import Target
from .writer.onnx_from_torch import serialized
from .writer.torch_exporter import write_onnx

if TYPE_CHECKING:
    from .diagnosis.first_bad_layer import LayerError

__all__ = ["FUSED", "Export"]

Array = np.ndarray[Any, Any]

FUSED = "fused.pt"
_SIMPLER = "simpler.onnx"
_SOURCE = "network"
_FUSED_STATE = "fused state"


class Export(Deployment):
    """The export of a network."""

    def __init__(
        self,
        source: Source,
        target: Target,
        groups: Sequence[InputGroup],
        certificate: Certificate,
        staging: Path,
        settings: Settings,
        simplifier: Simplifier | None = None,
        *,
        pool: Executor,
    ) -> None:
        super().__init__(source, target, groups, certificate, staging, settings)
        self.source, self.simplifier, self.pool = source, simplifier, pool
        self.checkpoint = staging / FUSED

    def prepare(self, report: Report) -> None:
        """Fuse, write ONNX, and hold every form against the one before."""
        self.fuse()
        report("fused")
        self.write()
        report("written")
        self.compare()
        report("compared")

    def fuse(self) -> None:
        """Make the fused state, each block proved, and hold the whole of it against the network."""
        model = self.source.model
        blocks = with_blocks(model)
        if blocks is None:
            self.fused = model
            self._save()
        self.fused_outputs = self.reference = self._run_network(model)
        if blocks is None:
            return
        self.fused, proofs = fuse_with_proof(blocks)
        self._save()
        self.certificate.blocks = _summary(proofs)
        self.certificate.health = [layer.to_dict() for layer in network_health(blocks, self.fused)]
        self.certificate.size = {
            state: dataclasses.asdict(self._count(net)) for state, net in (("train", blocks), ("fused", self.fused))
        }
        self.fused_outputs = self._run_network(self.fused)
        layers = layer_errors(blocks, self.fused, self.groups)
        self.gate(_SOURCE, _FUSED_STATE, self.reference, self.fused_outputs, layers)

    def write(self) -> None:
        """Write ONNX and audit it."""
        origin = self.origin
        batch = 1 if self.settings.dynamic_batch is None else None
        self.specs = [spec._replace(shape=(batch, *spec.shape[1:])) for spec in origin.specs]
        written = write_onnx(
            self.fused,
            self.specs,
            origin.output_names,
            target=self.target,
            metadata=metadata_of(origin_of(self.fused)),
        )
        self.asked = Asked(opset=written.opset, dynamic_batch=batch is None)
        described = written.to_dict()
        write_bytes(self.onnx, serialized(written.model))
        # Its weights would only stand beside those that the audit reads.
        del written
        self._audit()
        self.certificate.onnx.update(described)

    def compare(self) -> None:
        """Hold the ONNX against the fused state, simplify it, and hold the end against the beginning."""
        if self.simplifier is not None:
            self.simplifier.begin(self.onnx, self.onnx.with_name(_SIMPLER))
        final = self.run_onnx()
        state = _SOURCE if self.fused is self.source.model else _FUSED_STATE
        self.gate(state, ONNX, self.fused_outputs, final, locate=self._module(self.fused))
        if self.simplifier is not None:
            final = self._simplify(self.simplifier.result(), final)
        else:
            self.certificate.onnx["simplifier"] = "not run"
        if state != _SOURCE:
            self.gate(_SOURCE, ONNX, self.reference, final, locate=self._module(self.source.model))
        fused = sum(parameter.numel() for parameter in self.fused.parameters())
        self.certificate.onnx["parameters"] = fused
        self.files = [self.onnx, self.checkpoint]
        self.models = {"fp32": self.onnx}
        self.onnx_outputs = final

    def _simplify(self, result: Simplified, before: dict[str, Array]) -> dict[str, Array]:
        note, outputs = result.note, before
        if result.content is not None:
            original = self.onnx.read_bytes()
            write_bytes(self.onnx, result.content)
            try:
                self._audit()
                outputs = self.run_onnx()
                reference = open_model(original)
                self.gate(ONNX, "simplified", before, outputs, locate=self.layer(reference, self.onnx))
            except (CheckFailed, InputError) as error:
                note, outputs = f"{note}, but its model was refused: {error.what}", before
                self.certificate.hops = [hop for hop in self.certificate.hops if hop.result != "simplified"]
                write_bytes(self.onnx, original)
                self._audit()
        self.certificate.onnx["simplifier"] = note
        return outputs

    def _save(self) -> None:
        """Write the fused checkpoint, beside what comes after it."""
        self.saved[self.checkpoint] = self.pool.submit(lambda: Artefact.of(save(self.fused, self.checkpoint)))

    def _count(self, model: nn.Module) -> Counts:
        shape = self.origin.input_shape
        return count(model, shape) if shape else Counts(sum(p.numel() for p in model.parameters()), None)

    def _audit(self) -> None:
        self.certificate.onnx.update(self.audited(self.onnx, self.asked))

    def _run_network(self, model: nn.Module) -> dict[str, Array]:
        with network_runner(model) as runner:
            return infer_all(runner, self.inputs)

    def _module(self, model: nn.Module) -> Locate:
        """Where the ONNX begins to differ from a network."""

        def locate(tolerance: Tolerance) -> LayerError | None:
            from .diagnosis.first_bad_layer import first_bad_module

            return first_bad_module(model, self.onnx, named(self.inputs, self.specs), tolerance)

        return locate


def _summary(proofs: Sequence[BlockProof]) -> dict[str, Any]:
    worst = max(proofs, key=lambda proof: proof.error_float64)
    own = max(proofs, key=lambda proof: proof.error_own_dtype)
    return {
        "count": len(proofs),
        "float64": {"worst_layer": worst.layer, "max_rel_error": worst.error_float64},
        own.dtype: {"worst_layer": own.layer, "max_rel_error": own.error_own_dtype},
    }
