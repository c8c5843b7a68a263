"""Models for a board: complete ONNX files and their precisions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from irepdeploy.board.trtexec import PRECISIONS
from irepdeploy.console import command_line, quoted
from irepdeploy.errors import InputError, one_line
from irepdeploy.files import sha256

__all__ = ["Model", "Variant", "read_models", "variants_of"]

# Possible precisions of engines by that of the model: TensorRT can lower the precision of weights, but not raise it.
_BUILDS = {"fp64": ("fp32", "fp16"), "fp32": ("fp32", "fp16"), "fp16": ("fp16",), "int8": ("int8",)}


@dataclass(frozen=True)
class Model:
    """An ONNX file.

    Attributes:
        content: The complete model, including external data.
        carried: Precision of the model.
    """

    label: str
    path: str
    content: bytes
    carried: str

    @property
    def sha256(self) -> str:
        """Digest of the content."""
        return sha256(self.content)


@dataclass(frozen=True)
class Variant:
    """A model and the precision in which to run it; `label` is unique in a run."""

    label: str
    model: Model
    precision: str


def read_models(texts: Sequence[str | os.PathLike[str]]) -> list[Model]:
    """Read models named ``[LABEL=]FILE.onnx``; the label is the file's stem, or its path if stems are equal."""
    found = [_split(os.fspath(text)) for text in texts]
    shorts = [label or one_line(Path(path).stem) or "model" for label, path in found]
    models: list[Model] = []
    for (label, path), short in zip(found, shorts, strict=True):
        name = short if label or shorts.count(short) == 1 else one_line(path)
        if name in {model.label for model in models}:
            raise InputError(
                "two models have this label",
                where=name,
                hint=f"label them: {quoted(f'a={path}')} {quoted(f'b={path}')}",
            )
        models.append(Model(name, path, *_content(path)))
    return models


def variants_of(models: Sequence[Model], precisions: Sequence[str], *, builds: bool) -> list[Variant]:
    """Pair each model with every requested precision in which it can run, by default its own."""
    for precision in precisions:
        if precision not in PRECISIONS:
            raise InputError(
                f"unknown precision {precision!r}", where="--precision", hint="one or more of " + ", ".join(PRECISIONS)
            )
    wanted = list(dict.fromkeys(precisions))
    variants = []
    for model in models:
        can = _BUILDS.get(model.carried, ()) if builds else (model.carried,)
        chosen = [precision for precision in wanted if precision in can] if wanted else list(can[:1])
        if not chosen:
            raise InputError(
                f"the model is {model.carried} and cannot run as {' or '.join(wanted) or 'an engine'}",
                where=model.path,
                hint=_another(wanted[0] if wanted else "fp32"),
            )
        several = len(chosen) > 1
        variants += [Variant(f"{model.label} {one}" if several else model.label, model, one) for one in chosen]
    idle = [precision for precision in wanted if precision not in {variant.precision for variant in variants}]
    if idle:
        raise InputError(f"no model can run in {idle[0]}", where="--precision", hint=_another(idle[0]))
    return variants


def _another(precision: str) -> str:
    return f"irepdeploy export CHECKPOINT --target xavier-jp5 --precision {precision}, and name the ONNX it writes"


def _split(text: str) -> tuple[str | None, str]:
    label, equals, path = text.partition("=")
    # A path may contain an equals sign itself.
    if not equals or not label or os.path.exists(text):
        return None, text
    return one_line(label) or None, path


def _content(path: str) -> tuple[bytes, str]:
    """Return the complete model with its external data, and its precision."""
    from irepdeploy.onnx_graph.model_file import model_content, open_model
    from irepdeploy.onnx_graph.precision import precision_of

    export = command_line("export", Path(path or "MODEL"), "--target", "xavier-jp5", "--out", "build")
    if not path or (Path(path).suffix != ".onnx" and not Path(path).is_dir()):
        raise InputError("expected an ONNX file", where=repr(path), hint=f"create one: {export}")
    content = model_content(path)
    return content, precision_of(open_model(content))
