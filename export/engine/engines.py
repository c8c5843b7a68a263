"""Engines of an export: built here, or described by the commands that build them elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irepdeploy.board.runner import TensorSpec
from irepdeploy.board.trt_library import installed_version
from irepdeploy.console import command_line
from irepdeploy.errors import MissingError

from ..request.settings import Settings
from ..target.target import TARGETS, Target, installed_target, trtexec_line

if TYPE_CHECKING:
    from irepdeploy.board.engine_builder import Profile

__all__ = ["engines_for", "target_here"]

_FLAVOURS = {"TensorRT": "tensorrt", "TensorRT-RTX": "tensorrt_rtx"}


def target_here(target: Target) -> Target:
    """Return the target; for ``trt`` with the limits of the installed TensorRT."""
    version, _ = _version("TensorRT") if target.name == "trt" else (None, "")
    return target if version is None else installed_target(version)


def engines_for(
    target: Target,
    models: Mapping[str, Path],
    folder: Path,
    inputs: Sequence[TensorSpec],
    label: str,
    settings: Settings,
    report: Callable[[str], None],
) -> tuple[dict[str, Any], list[Path]]:
    """Build an engine of each precision, if the target's engines are built on this machine.

    Engines are built but not run, so their outputs are not verified here.

    Returns:
        The entry ``engine`` of the certificate, and the files written.
    """
    if target.engine is None:
        return {"status": "not asked for"}, []
    if target.on_board:
        lines = {
            precision: trtexec_line(
                target,
                path.name,
                f"model.{precision}.engine",
                precision=precision,
                inputs=inputs,
                batch=settings.dynamic_batch,
                tf32=settings.tf32,
                workspace_mib=None if settings.workspace_bytes is None else max(settings.workspace_bytes >> 20, 1),
                timing_cache=settings.timing_cache,
                dla=settings.dla,
            )
            for precision, path in models.items()
        }
        return {"status": "to be built on the board", "device": target.device, "commands": lines}, []
    flavour = _FLAVOURS[target.engine]
    version, reason = _version(target.engine)
    if version is None:
        return {"status": "not built", "reason": reason, "hint": _how_to_get(target, models)}, []
    if target.tensorrt and version.partition(".")[0] not in {each.partition(".")[0] for each in target.tensorrt}:
        return {
            "status": "not built",
            "reason": f"TensorRT {version} is installed here, and {target.name} is for {' or '.join(target.tensorrt)}",
            "hint": "--target trt builds for the one that is installed",
        }, []
    from .engine import build_engine

    built, files = [], []
    for precision, path in models.items():
        again = command_line("export", Path(label), "--target", target.name, "--precision", precision)
        try:
            found = build_engine(
                path.read_bytes(),
                folder / f"model.{precision}.engine",
                flavour=flavour,
                precision=precision,
                workspace_bytes=settings.workspace_bytes,
                timing_cache=settings.timing_cache,
                profiles=_profiles(inputs, settings.dynamic_batch),
                tf32=settings.tf32,
                dla_core=settings.dla,
                command=again,
            )
        except MissingError as error:
            # Usually there is just no GPU; the verified ONNX is still useful.
            return {"status": "not built", "reason": error.what, "hint": error.hint}, []
        built.append({**found.to_dict(), "onnx": path.name})
        files += [found.engine, found.sidecar]
        report(f"{precision} engine")
    return {
        "status": "built",
        "run": "not run",
        "flavour": target.engine,
        "version": version,
        "engines": built,
        "notes": _notes({engine["precision"]: engine["size_bytes"] for engine in built}),
    }, files


def _notes(sizes: Mapping[str, int]) -> list[str]:
    """Return a note against int8 if its engine is not smaller than another, since its loss then has no benefit."""
    larger = [
        f"the int8 engine has {sizes['int8']:,} bytes, the {precision} one {size:,}: int8 is not advised here"
        for precision, size in sizes.items()
        if precision != "int8" and sizes.get("int8", 0) >= size
    ]
    return larger[-1:]


def _version(engine: str) -> tuple[str | None, str]:
    """Return the version of TensorRT or TensorRT-RTX, or None and the reason why it is not available."""
    try:
        version = installed_version(_FLAVOURS[engine])
    except MissingError as error:
        return None, error.what
    return version, "" if version else f"{engine} is not installed here"


def _profiles(inputs: Sequence[TensorSpec], batch: tuple[int, int, int] | None) -> dict[str, Profile]:
    if batch is None:
        return {}
    found: dict[str, Profile] = {}
    for spec in inputs:
        if None in spec.shape:
            shapes = [[size if own is None else own for own in spec.shape] for size in batch]
            found[spec.name] = (shapes[0], shapes[1], shapes[2])
    return found


def _how_to_get(target: Target, models: Mapping[str, Path]) -> str:
    if target.engine == "TensorRT-RTX":
        return "pip install tensorrt-rtx"
    # If no version is required, install the newest.
    version = target.tensorrt[0] if target.tensorrt else "11"
    precision, path = next(iter(models.items()))
    line = trtexec_line(TARGETS[f"trt-{version}"], path.name, "model.engine", precision=precision)
    package = f"tensorrt=={version}.*" if target.tensorrt else "irepdeploy[trt]"
    return f"pip install '{package}', or where TensorRT {version} is: {line}"
