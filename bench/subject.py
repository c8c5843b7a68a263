"""Subjects of a run: models with their runners."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irepdeploy.console import quoted
from irepdeploy.errors import InputError, choices, few

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "CHECKPOINT",
    "CHOOSES_DEVICE",
    "ENGINE",
    "MODULE",
    "NETWORK",
    "ONNX",
    "RUNNERS",
    "Subject",
    "check_keys",
    "find_subjects",
]

CHECKPOINT = "checkpoint"
ONNX = "onnx"
ENGINE = "engine"
NETWORK = "network"
MODULE = "module"

_TORCH = (CHECKPOINT, NETWORK, MODULE)
_ANY = (ONNX, *_TORCH)
# Kinds of model that each runner takes. The first runner that takes a kind is its natural one.
RUNNERS: dict[str, tuple[str, ...]] = {
    "torch": _TORCH,
    "torch-compile": _TORCH,
    "torch-graph": _TORCH,
    "ort-cpu": _ANY,
    "ort-cuda": _ANY,
    "ort-trt": _ANY,
    "ort-trt-rtx": _ANY,
    "trt": (ENGINE,),
}

# Other runners have a fixed device.
CHOOSES_DEVICE = ("torch", "torch-compile", "torch-graph")


@dataclass(frozen=True)
class Subject:
    """A model and the runner to measure it on.

    Attributes:
        kind: CHECKPOINT, ONNX, ENGINE, NETWORK or MODULE.
        target: Path; for a NETWORK its name; for a MODULE a description of its origin.
        runner: Name in `RUNNERS` of a runner that takes this kind.
        module: For a MODULE, a network in eval mode; it is neither moved nor changed.
        input_shape: For a MODULE without an `Origin`, the shape of one input without the batch.
        facts: Known facts other than the latency (`Record.facts`).
    """

    label: str
    kind: str
    target: str
    runner: str
    module: nn.Module | None = field(default=None, compare=False, repr=False)
    input_shape: tuple[int, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in RUNNERS.get(self.runner, ()):
            takers = [name for name, kinds in RUNNERS.items() if self.kind in kinds]
            raise InputError(
                f"{self.runner} takes no {self.kind}", where=self.label, hint="runners for it: " + ", ".join(takers)
            )
        if (self.kind == MODULE) != (self.module is not None):
            raise InputError("a module belongs to the kind 'module', and to no other", where=self.label)

    @property
    def key(self) -> str:
        """The identifier among the subjects of a run."""
        return f"{self.label} ({self.runner})"


def find_subjects(models: Sequence[str | os.PathLike[str]], runners: Sequence[str] = ()) -> list[Subject]:
    """Turn ``[label=]path`` and ``[label=]name`` into subjects, each on every requested runner that can take it.

    The default label is the file's stem or the network's name or, if two models share it, the text as typed.

    Raises:
        InputError: A model does not exist, no runner can take it, or a label occurs twice.
    """
    if not models:
        raise InputError("nothing to measure", where="bench", hint="name a checkpoint, an ONNX file or a network")
    for runner in runners:
        if runner not in RUNNERS:
            raise InputError(f"unknown runner {runner!r}", where="--runner", hint=choices(runner, RUNNERS))
    wanted = list(dict.fromkeys(runners))
    found = [_split(os.fspath(model)) for model in models]
    shorts = [label or (target if kind == NETWORK else Path(target).stem) for label, kind, target in found]
    subjects: list[Subject] = []
    for (label, kind, target), short in zip(found, shorts, strict=True):
        takers = [name for name, kinds in RUNNERS.items() if kind in kinds]
        chosen = [name for name in wanted if name in takers] if wanted else takers[:1]
        if not chosen:
            raise InputError(
                f"{' and '.join(wanted)} cannot run {_KINDS[kind]}",
                where=target,
                hint=f"--runner {','.join(takers)}" + _EXPORT.get(kind, "").format(quoted(Path(target))),
            )
        name = short if label or shorts.count(short) == 1 else target
        subjects += [Subject(name, kind, target, runner) for runner in chosen]
    idle = [name for name in wanted if name not in {subject.runner for subject in subjects}]
    if idle:
        raise InputError(f"none of the models can run on {', '.join(idle)}", where="--runner", hint="omit it")
    check_keys(subjects)
    return subjects


def check_keys(subjects: Sequence[Subject]) -> None:
    """Raise InputError if two subjects share a label and a runner."""
    keys = [subject.key for subject in subjects]
    twice = next((subject for subject in subjects if keys.count(subject.key) > 1), None)
    if twice is not None:
        raise InputError(
            "given twice under the same label",
            where=twice.label,
            hint="label them: " + " ".join(quoted(f"{label}={twice.target}") for label in "ab"),
        )


_KINDS = {CHECKPOINT: "a checkpoint", ONNX: "an ONNX file", ENGINE: "an engine", NETWORK: "a network by name"}
_EXPORT = dict.fromkeys((CHECKPOINT, ONNX, NETWORK), ", or build an engine: irepdeploy export {} --target trt")
# Networks that a hint names.
_SUFFIXES = {".onnx": ONNX, ".engine": ENGINE, ".pt": CHECKPOINT}


def _split(text: str) -> tuple[str | None, str, str]:
    """Return label, kind and target of a model as the user wrote it."""
    label, equals, target = text.partition("=")
    # A path may contain an equals sign itself.
    if not equals or not label or os.path.exists(text):
        return None, *_kind(text)
    return label, *_kind(target)


def _kind(target: str) -> tuple[str, str]:
    path = Path(target)
    if path.is_file():
        return _SUFFIXES.get(path.suffix, CHECKPOINT), target
    from irepdeploy.network.libraries import library_name
    from irepdeploy.network.nets import NETS

    if target in NETS or library_name(target) is not None:
        return NETWORK, target
    if path.is_dir():
        raise InputError("expected a model, got a directory", where=target, hint="name the .pt, .onnx or .engine file")
    is_path = path.suffix in _SUFFIXES or len(path.parts) > 1
    raise InputError(
        "no such file" if is_path else "no such file, and no such network", where=target, hint=_nearest(path, is_path)
    )


def _nearest(path: Path, is_path: bool) -> str:
    from irepdeploy.network.nets import NETS

    files = [str(other) for other in _siblings(path) if other.suffix in _SUFFIXES]
    near = difflib.get_close_matches(str(path), files if is_path else [*NETS, *files], n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    if is_path:
        return "check the path"
    return f"networks: {few(NETS)}"


def _siblings(path: Path) -> list[Path]:
    try:
        return sorted(path.parent.iterdir())
    except OSError:
        return []
