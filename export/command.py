"""The `export` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from irepdeploy.console import log, print_json, progress, table
from irepdeploy.errors import InputError
from irepdeploy.options import InputsOption, JsonOption, ModelOption, SeedOption

if TYPE_CHECKING:
    from irepdeploy.certificate import Certificate

__all__ = ["export"]


def export(
    source: Annotated[str, typer.Argument(help="A checkpoint, or the name of a network (random weights).")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the results; made if it is not there. [SOURCE-export]"),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="What it is for: ort, trt, trt-10, trt-11, xavier-jp5, orin-jp6 or rtx.")
    ] = "ort",
    trt: Annotated[bool, typer.Option("--trt", help="The same as --target trt.")] = False,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Some of fp32,fp16,int8. [fp32; for an engine fp32,fp16]")
    ] = None,
    max_drop: Annotated[
        float, typer.Option("--max-drop", help="Percentage points of accuracy that int8 may lose.")
    ] = 0.5,
    inputs: InputsOption = None,
    model: ModelOption = None,
    seed: SeedOption = 0,
    no_simplify: Annotated[bool, typer.Option("--no-simplify", help="Leave onnx-simplifier out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fuse a network, write ONNX, prove at every hop that it is the same network, and certify it.

    Example: irepdeploy export run/trained.pt --out build
    """
    from irepdeploy.checkpoint import load_model_factory

    from .pipeline import certified_export, step_count

    if trt and target not in ("ort", "trt"):
        raise InputError(f"--trt and --target {target}", hint="give one of them")
    folder = out or Path(f"{Path(source).stem}-export")
    wanted = "trt" if trt else target
    with progress() as display:
        task = display.task(f"export {Path(source).name}", total=step_count(wanted, precision))
        certificate = certified_export(
            source,
            folder,
            target=wanted,
            precision=precision,
            max_drop=max_drop,
            model_factory=load_model_factory(model) if model else None,
            inputs=inputs,
            seed=seed,
            simplify=not no_simplify,
            report=lambda step: task.advance(note=step),
        )
    if as_json:
        print_json(certificate.to_dict())
    else:
        _show(certificate, folder, model)
    certificate.require_engine()


def _show(certificate: Certificate, folder: Path, model: str | None) -> None:
    from irepdeploy.profiling.health import LayerHealth, health_warnings

    source = certificate.source
    title = f"{source['file'] or source['net']}: every hop proved (weights: {source['statistics']})"
    rows = [
        [hop.source, hop.result, _counted(hop.inputs), f"{hop.error:.1e}", f"{hop.allowed:.0e}", "same"]
        for hop in certificate.hops
    ]
    table(title, ["from", "to", "inputs", "error", "allowed", "verdict"], rows)
    blocks = certificate.blocks
    if blocks:
        worst = blocks["float64"]
        print(
            f"{blocks['count']} blocks fused, "
            f"float64 error at most {worst['max_rel_error']:.1e} ({worst['worst_layer']})"
        )
    for text in health_warnings([LayerHealth.from_dict(layer) for layer in certificate.health]):
        log(f"warning: {text}")
    print(certificate.onnx["simplifier"])
    _show_precisions(certificate)
    _show_engines(certificate)
    for artefact in certificate.artefacts:
        print(f"{folder / artefact.file}  {artefact.size_bytes:,} bytes")
    print(folder / "certificate.json")
    reference = source["file"] or folder / "fused.pt"
    ours = f" --model {_quoted(model)}" if model else ""
    log(f"next: irepdeploy verify {_quoted(reference)} {_quoted(folder / 'model.onnx')}{ours}")


def _show_precisions(certificate: Certificate) -> None:
    found = certificate.precisions
    if "fp16" in found:
        ranges = found["fp16"]["ranges"]
        print(f"fp16: weights up to {ranges['max_weight']:.3g}, activations up to {ranges['max_activation']:.3g}")
    if "int8" in found:
        int8 = found["int8"]
        kept = len(int8["kept_float"])
        drop = "not informative" if int8["drop"] is None else f"{int8['drop']:.2f} points of {int8['max_drop']:g}"
        print(f"int8: loss {drop}, cosine {int8['cosine']:.6f}, on {int8['measured_on']}; {kept} layers kept in float")
        for note in int8["notes"]:
            log(f"note: {note}")


def _show_engines(certificate: Certificate) -> None:
    engine = certificate.engine
    for built in engine.get("engines", ()):
        layers = built["layers"]
        print(
            f"{engine['flavour']} {engine['version']}, {built['precision']} engine: {built['size_bytes']:,} bytes, "
            f"{layers.get('convolutions', '?')} convolutions in it; {engine['run']}"
        )
    for precision, line in engine.get("commands", {}).items():
        print(f"on the board ({engine['device']}), {precision}: {line}")


def _counted(groups: list[dict[str, object]]) -> str:
    return " + ".join(f"{group['count']} {str(group['name']).partition(',')[0]}" for group in groups)


def _quoted(path: Path | str) -> str:
    import shlex

    text = shlex.quote(str(path))
    return f"./{text}" if text.startswith("-") else text
