"""Subject: one network on one runner, found from what the user wrote or made by a suite."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CHECKPOINT", "CHOOSES_DEVICE", "ENGINE", "MODULE", "NETWORK", "ONNX", "RUNNERS", "Subject", "find_subjects"]

CHECKPOINT = "checkpoint"
ONNX = "onnx"
ENGINE = "engine"
NETWORK = "network"
MODULE = "module"

_TORCH = (CHECKPOINT, NETWORK, MODULE)
_ANY = (ONNX, *_TORCH)
# Which kinds of model a runner takes. The first runner that takes a kind is the one natural to it.
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

# The other runners have a device of their own.
CHOOSES_DEVICE = ("torch", "torch-compile", "torch-graph")


@dataclass(frozen=True)
class Subject:
    """What is measured: a label, a kind, where it is, and the runner.

    Args:
        label: as it stands in tables; those of one run on one runner differ.
        kind: CHECKPOINT, ONNX, ENGINE, NETWORK or MODULE.
        target: a path; of a NETWORK its name in the registry; of a MODULE what it is made from, in words.
        runner: a name in `RUNNERS` that takes this kind.
        module: of a MODULE: a network in eval mode, which is neither moved nor changed.
        input_shape: of a MODULE without an `Origin`: of one input without the batch.
        facts: what is known of it beside its latency (`Record.facts`).
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
        """Unique among the subjects of a run."""
        return f"{self.label} ({self.runner})"


def find_subjects(
    models: Sequence[str | os.PathLike[str] | Subject], runners: Sequence[str] | None = None
) -> list[Subject]:
    """Turn ``[label=]path`` and ``[label=]name`` into subjects, each on every runner asked for that can take it.

    Without `runners`, each model is on the one natural to it. A label is the file's stem or the network's name; where
    two would be equal, it is what the user wrote. Subjects stay as they are.

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
    found = [model if isinstance(model, Subject) else _split(os.fspath(model)) for model in models]
    shorts = [_short(each) for each in found]
    subjects: list[Subject] = []
    for each, short in zip(found, shorts, strict=True):
        if isinstance(each, Subject):
            subjects.append(each)
            continue
        label, kind, target = each
        takers = [name for name, kinds in RUNNERS.items() if kind in kinds]
        chosen = [name for name in wanted if name in takers] if wanted else takers[:1]
        if not chosen:
            raise InputError(
                f"{' and '.join(wanted)} cannot run {_KINDS[kind]}",
                where=target,
                hint=f"--runner {','.join(takers)}" + _EXPORT.get(kind, "").format(target),
            )
        name = short if label or shorts.count(short) == 1 else target
        subjects += [Subject(name, kind, target, runner) for runner in chosen]
    texts = any(not isinstance(each, Subject) for each in found)
    idle = [name for name in wanted if texts and name not in {subject.runner for subject in subjects}]
    if idle:
        raise InputError(f"none of the models can run on {', '.join(idle)}", where="--runner", hint="leave it out")
    keys = [subject.key for subject in subjects]
    twice = next((subject for subject in subjects if keys.count(subject.key) > 1), None)
    if twice is not None:
        raise InputError(
            "given twice under one label", where=twice.label, hint=f"label them: a={twice.target} b={twice.target}"
        )
    return subjects


_KINDS = {CHECKPOINT: "a checkpoint", ONNX: "an ONNX file", ENGINE: "an engine", NETWORK: "a network by name"}
_EXPORT = dict.fromkeys((CHECKPOINT, ONNX, NETWORK), ", or build an engine: irepdeploy export {} --target trt")
# Networks that a hint names.
_SHOWN = 12
_SUFFIXES = {".onnx": ONNX, ".engine": ENGINE, ".pt": CHECKPOINT}


def _short(model: Subject | tuple[str | None, str, str]) -> str:
    if isinstance(model, Subject):
        return model.label
    label, kind, target = model
    return label or (target if kind == NETWORK else Path(target).stem)


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
        return _SUFFIXES.get(path.suffix, CHECKPOINT), target
    from irepdeploy.network.nets import NETS

    if target in NETS:
        return NETWORK, target
    if path.is_dir():
        raise InputError("a folder where a model is due", where=target, hint="name a .pt, .onnx or .engine file in it")
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
    more = f", and {len(NETS) - _SHOWN} more" if len(NETS) > _SHOWN else ""
    return "networks: " + ", ".join(list(NETS)[:_SHOWN]) + more


def _siblings(path: Path) -> list[Path]:
    try:
        return sorted(path.parent.iterdir())
    except OSError:
        return []
