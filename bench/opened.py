"""Opened subjects: their weights are loaded and their runners made, but not yet active."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import Runner, TensorSpec
from irepdeploy.board.sidecar import read_sidecar
from irepdeploy.board.trt_runner import TrtRunner
from irepdeploy.console import log
from irepdeploy.errors import InputError, ModelError
from irepdeploy.files import sha256
from irepdeploy.network.libraries import is_random
from irepdeploy.reparam.origin import Origin, origin_of
from irepdeploy.runtime.torch_compile_runner import TorchCompileRunner
from irepdeploy.runtime.torch_graph_runner import TorchGraphRunner
from irepdeploy.runtime.torch_runner import TorchRunner
from irepdeploy.verify.declared import Declared, asked_by_name, with_asked
from irepdeploy.verify.network_limits import network_limits
from irepdeploy.verify.onnx_process import OnnxProcessRunner
from irepdeploy.verify.output_names import output_names
from irepdeploy.verify.signature import Signature

from .request import BenchRequest
from .subject import CHECKPOINT, ENGINE, MODULE, NETWORK, ONNX, Subject

if TYPE_CHECKING:
    from torch import nn

__all__ = ["OpenedSubject", "Opener"]

_TORCH: dict[str, type[TorchRunner]] = {
    "torch": TorchRunner,
    "torch-compile": TorchCompileRunner,
    "torch-graph": TorchGraphRunner,
}
_PROVIDERS = {
    "ort-cpu": "CPUExecutionProvider",
    "ort-cuda": "CUDAExecutionProvider",
    "ort-trt": "TensorrtExecutionProvider",
    "ort-trt-rtx": "NvTensorRTRTXExecutionProvider",
}


@dataclass(frozen=True)
class OpenedSubject:
    """A subject with its runner, the source of its weights, and facts found while opening it.

    Attributes:
        limits: Smallest and largest value of integer inputs, if the model reveals them.
    """

    subject: Subject
    runner: Runner
    source: str
    artefact_sha256: str | None
    facts: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Opener:
    """Opens the subjects of one run; a network shared by several subjects is built once."""

    request: BenchRequest
    spinning: bool = True
    _nets: dict[tuple[str, str], nn.Module] = field(default_factory=dict, init=False, repr=False)

    def open(self, subject: Subject) -> OpenedSubject:
        """Load the model and make its runner, without activating it."""
        if subject.kind == ENGINE:
            return self._engine(subject)
        if subject.kind == ONNX:
            from irepdeploy.onnx_graph.input_limits import input_limits
            from irepdeploy.onnx_graph.model_file import file_digest, open_model
            from irepdeploy.onnx_graph.precision import precision_of

            model = open_model(subject.target, weights=False)
            runner = self._ort(subject, subject.target, precision_of(model))
            return OpenedSubject(subject, runner, ONNX, file_digest(subject.target), limits=input_limits(model))
        net = self._net(subject)
        origin = origin_of(net)
        digest = sha256(Path(subject.target)) if subject.kind == CHECKPOINT else None
        known = {"net": origin.net, "params": sum(parameter.numel() for parameter in net.parameters())}
        facts = {name: value for name, value in known.items() if value is not None}
        specs = _specs(subject, origin, _dtype(subject, net), self.request)
        names = output_names(net, specs, origin.output_names)
        runner, source = self._of_net(subject, net, specs, names), _source(subject, origin)
        signature = Signature.of(specs)
        limits = network_limits(net, signature) if signature.has_whole_numbers else {}
        return OpenedSubject(subject, runner, source, digest, facts, limits)

    def trial(self, subject: Subject) -> OnnxProcessRunner:
        """Return a runner of an ONNX file on the CPU, in a process that can be killed."""
        return OnnxProcessRunner(subject.target, threads=self.request.threads, spinning=False)

    def _of_net(self, subject: Subject, net: nn.Module, specs: Sequence[TensorSpec], names: Sequence[str]) -> Runner:
        if subject.runner in _TORCH:
            return _TORCH[subject.runner](
                net,
                specs,
                names,
                threads=self.request.threads,
                device="cuda" if subject.runner == TorchGraphRunner.name else self.request.device,
                tf32=self.request.tf32,
                transfers=self.request.transfers,
            )
        from .onnx_model import onnx_of

        sized = [spec.with_batch(self.request.written_batch) for spec in specs]
        return self._ort(subject, onnx_of(net, sized, names), _PRECISIONS[_dtype(subject, net)])

    def _engine(self, subject: Subject) -> OpenedSubject:
        sidecar = read_sidecar(subject.target)
        if sidecar is not None and sidecar.tf32 != self.request.tf32:
            built, other = ("on", "without it") if sidecar.tf32 else ("off", "with it")
            log(
                f"{subject.label}: the engine was built with TF32 {built} (recorded); build it again {other} to compare"
            )
        runner = TrtRunner(subject.target, cuda_graph=True, transfers=self.request.transfers)
        return OpenedSubject(subject, runner, ENGINE, sha256(Path(subject.target)))

    def _ort(self, subject: Subject, model: str | bytes, precision: str) -> Runner:
        return OrtRunner(
            model,
            provider=_PROVIDERS[subject.runner],
            threads=self.request.threads,
            spinning=self.spinning,
            precision=precision,
            tf32=self.request.tf32,
            transfers=self.request.transfers,
        )

    def _net(self, subject: Subject) -> nn.Module:
        if subject.module is not None:
            return subject.module
        key = subject.kind, subject.target
        if key not in self._nets:
            if subject.kind == NETWORK:
                from irepdeploy.network.source import open_source

                self._nets[key] = open_source(subject.target, seed=self.request.seed).model
            else:
                self._nets[key] = _checkpoint(subject.target, self.request.factory)
        return self._nets[key]


_PRECISIONS = {"float16": "fp16", "float32": "fp32", "float64": "fp64"}


def _checkpoint(path: str, factory: Callable[[], nn.Module] | None) -> nn.Module:
    from irepdeploy.network.checkpoint import is_foreign, load

    # The factory is only for foreign networks, which may be mixed with networks of the registry.
    return load(path, model=factory if factory is not None and is_foreign(path) else None)


def _specs(subject: Subject, origin: Origin, dtype: str, request: BenchRequest) -> Sequence[TensorSpec]:
    """Return every input with a dynamic batch, at the sizes asked for or else at those that the network stores."""
    shape = origin.input_shape or subject.input_shape
    stored = origin.inputs or ((TensorSpec(origin.input_name, (None, *shape), dtype),) if shape else ())
    names = [spec.name for spec in stored]
    # Others may be inputs of another model.
    asked = [spec for name, spec in asked_by_name(request.shapes, names).items() if name in names or not names]
    if asked:
        return with_asked(stored, Declared.of_specs(asked))
    if not stored:
        raise InputError(
            "the network does not declare its inputs",
            where=subject.label if subject.kind == MODULE else subject.target,
            hint="add --input-shape [NAME:]1xCxHxW for each input, or save it with "
            "irepdeploy.save(net, path, input_shape=(3, 32, 32))",
        )
    return stored


def _dtype(subject: Subject, net: nn.Module) -> str:
    first = next(net.parameters(), None)
    dtype = "float32" if first is None else str(first.dtype).rsplit(".", 1)[-1]
    if dtype not in _PRECISIONS:
        raise ModelError(f"weights of type {dtype} cannot be fed from numpy", where=subject.target)
    return dtype


def _source(subject: Subject, origin: Origin) -> str:
    if subject.kind == CHECKPOINT:
        return f"checkpoint, {origin.state} state"
    if subject.kind != NETWORK:
        return subject.target
    return "network, random weights" if is_random(subject.target) else "network, pretrained weights"
