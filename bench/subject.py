"""Subject: one network on one runner, found from what the user wrote."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from irepdeploy.errors import InputError, ModelError
from irepdeploy.files import read_bytes, sha256
from irepdeploy.runtime.ort_runner import OrtRunner
from irepdeploy.runtime.runner import Runner, TensorSpec
from irepdeploy.runtime.torch_runner import TorchRunner

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CHECKPOINT", "NETWORK", "ONNX", "RUNNERS", "Subject", "find_subjects", "open_subject"]

CHECKPOINT = "checkpoint"
ONNX = "onnx"
NETWORK = "network"

# Which kinds of model a runner takes.
RUNNERS = {"torch": (CHECKPOINT, NETWORK), "ort-cpu": (ONNX,)}


@dataclass(frozen=True)
class Subject:
    """What is measured: a label, a kind, its path or its name in the registry, and the runner."""

    label: str
    kind: str
    target: str
    runner: str

    @property
    def key(self) -> str:
        """Unique among the subjects of a run."""
        return f"{self.label} ({self.runner})"


@dataclass(frozen=True)
class OpenedSubject:
    """A subject with its runner, not yet active, and where its weights come from."""

    subject: Subject
    runner: Runner
    source: str
    artefact_sha256: str | None


def find_subjects(models: Sequence[str | os.PathLike[str]], runners: Sequence[str] | None = None) -> list[Subject]:
    """Turn ``[label=]path`` and ``[label=]name`` into subjects, each on every runner asked for that can take it.

    Without `runners`, each model is on the one natural to it. A label is the file's stem or the network's name; where
    two would be equal, it is what the user wrote.

    Raises:
        InputError: no models, an unknown file, name or runner (with the nearest ones), a model that none of the runners
            takes, a runner that takes none of the models, a label given twice.
    """
    if not models:
        raise InputError("nothing to measure", where="bench", hint="name a checkpoint, an ONNX file or a network")
    for runner in runners or ():
        if runner not in RUNNERS:
            raise InputError(f"no runner {runner!r}", where="--runner", hint="runners: " + ", ".join(RUNNERS))
    wanted = list(dict.fromkeys(runners or ()))
    found = [_split(os.fspath(model)) for model in models]
    shorts = [label or (Path(target).stem if kind != NETWORK else target) for label, kind, target in found]
    subjects = []
    for (label, kind, target), short in zip(found, shorts, strict=True):
        takers = [name for name, kinds in RUNNERS.items() if kind in kinds]
        chosen = [name for name in wanted if name in takers] if wanted else takers[:1]
        if not chosen:
            raise InputError(
                f"{' and '.join(wanted)} cannot run {_KINDS[kind]}",
                where=target,
                hint=f"--runner {','.join(takers)}" + (f", or: irepdeploy export {target}" if kind != ONNX else ""),
            )
        name = short if label or shorts.count(short) == 1 else target
        subjects += [Subject(name, kind, target, runner) for runner in chosen]
    idle = [name for name in wanted if name not in {subject.runner for subject in subjects}]
    if idle:
        raise InputError(f"none of the models can run on {', '.join(idle)}", where="--runner", hint="leave it out")
    keys = [subject.key for subject in subjects]
    twice = next((subject for subject in subjects if keys.count(subject.key) > 1), None)
    if twice is not None:
        raise InputError(
            "given twice under one label", where=twice.label, hint=f"label them: a={twice.target} b={twice.target}"
        )
    return subjects


def open_subject(
    subject: Subject,
    *,
    seed: int,
    threads: int,
    spinning: bool = True,
    factory: Callable[[], nn.Module] | None = None,
) -> OpenedSubject:
    """Load the model and make its runner, not yet active; `factory` builds the class of a foreign checkpoint.

    `spinning` is for the idle threads of ONNX Runtime.

    Raises:
        InputError: a damaged file (CheckpointError, ModelError), or a network that does not say what it takes.
    """
    if subject.kind == ONNX:
        runner: Runner = OrtRunner(
            subject.target, threads=threads, spinning=spinning, precision=_onnx_precision(subject.target)
        )
        return OpenedSubject(subject, runner, ONNX, sha256(Path(subject.target)))
    if subject.kind == CHECKPOINT:
        net = _load(subject.target, factory)
        digest: str | None = sha256(Path(subject.target))
    else:
        net, digest = _random_network(subject.target, seed), None
    return OpenedSubject(subject, _torch_runner(net, subject, threads), _source(net, subject), digest)


_KINDS = {CHECKPOINT: "a checkpoint", ONNX: "an ONNX file", NETWORK: "a network by name"}


def _split(text: str) -> tuple[str | None, str, str]:
    """Label, kind and target of what the user wrote."""
    label, equals, target = text.partition("=")
    # A path may hold an equals sign of its own.
    if not equals or not label or os.path.exists(text):
        return None, *_kind(text)
    return label, *_kind(target)


def _kind(target: str) -> tuple[str, str]:
    path = Path(target)
    if path.is_file():
        return (ONNX if path.suffix == ".onnx" else CHECKPOINT), target
    from irepdeploy.nets import NETS

    if target in NETS:
        return NETWORK, target
    if path.is_dir():
        raise InputError("a folder where a model is due", where=target, hint="name a .pt or .onnx file in it")
    is_path = path.suffix in (".onnx", ".pt") or len(path.parts) > 1
    raise InputError(
        "no such file" if is_path else "no such file, and no such network", where=target, hint=_nearest(path, is_path)
    )


def _nearest(path: Path, is_path: bool) -> str:
    from irepdeploy.nets import NETS

    files = [str(other) for other in _siblings(path) if other.suffix in (".onnx", ".pt")]
    near = difflib.get_close_matches(str(path), files if is_path else [*NETS, *files], n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return "check the path" if is_path else "networks: " + ", ".join(NETS)


def _siblings(path: Path) -> list[Path]:
    try:
        return sorted(path.parent.iterdir())
    except OSError:
        return []


def _load(path: str, factory: Callable[[], nn.Module] | None) -> nn.Module:
    from irepdeploy.checkpoint import load, read

    # Networks of the registry may stand beside foreign ones: the factory is for those alone.
    foreign = factory is not None and read(path)["origin"].get("net") is None
    return load(path, model=factory if foreign else None)


def _random_network(name: str, seed: int) -> nn.Module:
    import torch

    from irepdeploy.nets import build
    from irepdeploy.nets.statistics import randomize_statistics

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return randomize_statistics(build(name), seed).eval()


def _torch_runner(net: nn.Module, subject: Subject, threads: int) -> TorchRunner:
    from irepdeploy.origin import origin_of

    origin = origin_of(net)
    if not origin.input_shape:
        raise InputError(
            "it does not say what it takes",
            where=subject.target,
            hint="save it with its input shape: irepdeploy.save(net, path, input_shape=(3, 32, 32))",
        )
    first = next(net.parameters(), None)
    dtype = "float32" if first is None else str(first.dtype).rsplit(".", 1)[-1]
    if dtype not in ("float16", "float32", "float64"):
        raise ModelError(f"weights of type {dtype} cannot be fed from numpy", where=subject.target)
    spec = TensorSpec(origin.input_name, (1, *origin.input_shape), dtype)
    return TorchRunner(net, [spec], origin.output_names, threads=threads)


def _source(net: nn.Module, subject: Subject) -> str:
    from irepdeploy.origin import origin_of

    return "network, random weights" if subject.kind == NETWORK else f"checkpoint, {origin_of(net).state} state"


def _onnx_precision(path: str) -> str:
    """What the weights of an ONNX model are stored in; a session does not tell."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(read_bytes(path, "ONNX file"))
    except DecodeError:
        # The runner says so when it is activated.
        return "unknown"
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for node in model.graph.node):
        return "int8"
    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.DOUBLE: "fp64"}
    kinds = {names.get(weight.data_type) for weight in model.graph.initializer if len(weight.dims) > 1} - {None}
    return "mixed" if len(kinds) > 1 else next(iter(kinds), None) or "unknown"
