"""Output of the `export` command: results on stdout, next steps on stderr."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irepdeploy.console import command_line, log, next_step, print_json, say, table
from irepdeploy.errors import counted

from .collapse_table import kept_note, show_regions, summary

if TYPE_CHECKING:
    from irepdeploy.board.runner import TensorSpec
    from irepdeploy.verify.certificate import Certificate

    from .request.export_request import ExportRequest

__all__ = ["explain", "show"]


def explain(
    source: str, border: str, as_json: bool, inputs: Sequence[TensorSpec] = (), request: ExportRequest | None = None
) -> None:
    """Print what would collapse in an ONNX file, with dynamic dimensions fixed as in `inputs`.

    If `request` is given, the source is a network, which is fused and written first.
    """
    from irepdeploy.board.json_values import json_safe
    from irepdeploy.onnx_collapse import collapse

    from .collapse_facts import collapse_facts
    from .onnx_source import given_onnx, open_onnx
    from .request.settings import Settings

    if request is not None:
        from .structure import written_network

        given = written_network(request)
        changes: tuple[str, ...] = ("the network fused and written as ONNX, before onnx-simplifier",)
    elif inputs:
        opened = open_onnx(source, Settings(input_shape=inputs))
        given, changes = opened.model, opened.changes
    else:
        given, changes = given_onnx(source)
    for change in changes:
        log(f"note: {change}")
    facts = collapse_facts(collapse(given, border="map" if border == "map" else "refuse"))
    if as_json:
        print_json(json_safe({"file": source, "changes": list(changes), **facts}))
        return
    if facts["regions"]:
        show_regions(source, facts["regions"])
    say(summary(facts))
    if border == "refuse" and any("at the border" in region["reason"] for region in facts["regions"]):
        log("hint: --border map adds a constant map to regions that are not a convolution at the border")


def show(certificate: Certificate, folder: Path, model: str | None) -> None:
    """Print the results of an export."""
    from irepdeploy.profiling.health import LayerHealth, health_warnings

    source = certificate.source
    title = f"{source['file'] or source['net']}: every hop proved (weights: {source['statistics']})"
    rows = [[hop.source, hop.result, _counted(hop.inputs), *hop.figures, "same"] for hop in certificate.hops]
    table(title, ["from", "to", "inputs", "error", "own noise", "allowed", "verdict"], rows)
    for change in certificate.onnx.get("changes", ()):
        log(f"note: {change}")
    _show_noise(certificate)
    blocks = certificate.blocks
    collapsed = certificate.onnx["collapse"]
    if source["state"] == "onnx":
        _show_collapse(collapsed, blocks)
    else:
        if blocks:
            worst = blocks["float64"]
            say(
                f"{counted(blocks['count'], 'block')} fused, "
                f"float64 error at most {worst['max_rel_error']:.1e} ({worst['worst_layer']})"
            )
        if collapsed["changed"] or collapsed.get("regions"):
            _show_collapse(collapsed, collapsed.get("proofs", {}))
    for text in health_warnings([LayerHealth.from_dict(layer) for layer in certificate.health]):
        log(f"warning: {text}")
    if source["state"] != "onnx":
        say(certificate.onnx["simplifier"])
    _show_precisions(certificate)
    _show_engines(certificate, folder)
    for artefact in certificate.artefacts:
        say(f"{folder / artefact.file}  {counted(artefact.size_bytes, 'byte')}")
    say(folder / "certificate.json")
    if "preprocessing" in certificate.onnx:
        # `verify` cannot compare this file with the network, which takes other inputs.
        return
    reference = Path(source["file"] or folder / "fused.pt")
    ours = ["--model", model] if model else []
    for text in certificate.onnx.get("compared_at", ()):
        ours += ["--input-shape", text]
    next_step("verify", reference, folder / "model.onnx", *ours)


def _show_noise(certificate: Certificate) -> None:
    """Print the hops whose tolerance was raised to the noise of the source."""
    for hop in certificate.hops:
        if hop.noise is not None and hop.allowed > hop.stated.max_rel_error:
            say(
                f"{hop.result}: {hop.allowed:.0e} is allowed, not {hop.stated.max_rel_error:.0e}, "
                f"since the source differs from itself by {hop.noise.rel_error:.0e} when only the rounding changes"
            )


def _show_collapse(facts: dict[str, Any], proofs: dict[str, Any]) -> None:
    say(summary(facts))
    if proofs:
        inside, border = proofs["float64"], proofs["float64 at the border"]
        say(
            f"{proofs['count']} proved in float64: error at most {inside['max_rel_error']:.1e} inside, "
            f"{border['max_rel_error']:.1e} at the border ({border['worst_layer']})"
        )
    note = kept_note(facts.get("regions", ()))
    if note is not None:
        log(f"note: {note}")


def _show_precisions(certificate: Certificate) -> None:
    found = certificate.precisions
    if "fp16" in found:
        ranges = found["fp16"]["ranges"]
        stay = ", ".join(f"{count} {kind}" for kind, count in found["fp16"]["kept_operators"].items())
        say(
            f"fp16: weights up to {ranges['max_weight']:.3g}, activations up to {ranges['max_activation']:.3g}"
            + (f"; {stay} stay float32" if stay else "")
        )
    if "int8" in found:
        int8 = found["int8"]
        kept = len(int8["kept_float"])
        drop = (
            "not measured" if int8["drop"] is None else f"{max(0.0, int8['drop']):.2f} points of {int8['max_drop']:g}"
        )
        if int8["accuracy"] is not None:
            drop += " ({float32:.2f} to {int8:.2f} %)".format(**int8["accuracy"])
        where = int8["measured_on"]["name"]
        say(f"int8: loss {drop}, cosine {int8['cosine']:.6f}, on {where}; {counted(kept, 'layer')} kept in float")
        for note in int8["notes"]:
            log(f"note: {note}")


def _show_engines(certificate: Certificate, folder: Path) -> None:
    engine = certificate.engine
    for built in engine.get("engines", ()):
        layers = built["layers"]
        say(
            f"{engine['flavour']} {engine['version']}, {built['precision']} engine: {built['size_bytes']:,} bytes, "
            f"{layers.get('convolutions', '?')} convolutions in it; {engine['run']}"
        )
    for note in engine.get("notes", ()):
        log(f"note: {note}")
    for precision, line in engine.get("commands", {}).items():
        say(f"on the board ({engine['device']}), {precision}: {line}")
    if engine.get("commands"):
        # fp32 and fp16 engines are built from the float32 file, int8 engines from a separate file.
        both = [precision for precision in engine["commands"] if precision != "int8"]
        models = [folder / "model.onnx"] if both else []
        models += [folder / "model.int8.onnx"] if "int8" in engine["commands"] else []
        again = command_line("jetson", "bench", "USER@HOST", *models, "--precision", ",".join(engine["commands"]))
        say(f"from the desk: {again}")


def _counted(groups: list[dict[str, object]]) -> str:
    return " + ".join(f"{group['count']} {str(group['name']).partition(',')[0]}" for group in groups)
