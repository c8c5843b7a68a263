"""The `verify` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from irepdeploy.cli.options import InputShapeOption, InputsOption, JsonOption, ModelOption, TimeoutOption
from irepdeploy.console import command_line, next_step, print_json, say, table
from irepdeploy.errors import CheckFailed, InputError

if TYPE_CHECKING:
    from irepdeploy.verify.certified import CertifiedFile
    from irepdeploy.verify.equivalence import Verification

__all__ = ["verify"]


def verify(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="The reference: a checkpoint, an ONNX file, an engine, or any other source that export accepts.",
        ),
    ],
    b: Annotated[
        str | None,
        typer.Argument(
            metavar="B",
            help="The model that must give the same outputs; with --certificate, the source of the export.",
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate",
            metavar="FILE",
            help="The certificate.json of an export: check by digest that A is a certified file, and compare A with "
            "the source of the export again if that is available.",
        ),
    ] = None,
    inputs: InputsOption = None,
    input_shape: InputShapeOption = None,
    model: ModelOption = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=(1 << 32) - 1, help="Seed of all random numbers. [the export's seed, or 0]"),
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option(
            "--tolerance",
            help="Precision whose tolerance applies: float32, float16, ... [the export's precision, or float32]",
        ),
    ] = None,
    timeout: TimeoutOption = 300.0,
    as_json: JsonOption = False,
) -> None:
    """Check that two models give the same outputs, or that a file is the one a certificate describes.

    The exit code is 0 if the check passes and 1 if it fails.

    Examples: irepdeploy verify build/fused.pt build/model.onnx;
    irepdeploy verify build/model.onnx --certificate build/certificate.json
    """
    if b is None and certificate is None:
        raise InputError("expected a second model, or --certificate", where=a, hint=_to_type(a))
    if certificate is None and any(path is not None and path.lower().endswith(".onnx") for path in (a, b)):
        from irepdeploy.verify.onnx_process import start_onnx_process

        # The process imports its modules while this one imports torch.
        start_onnx_process()
    from irepdeploy.network.factory import load_model_factory

    factory = load_model_factory(model) if model else None
    from irepdeploy.verify.input_spec import input_specs

    shapes = input_specs(input_shape or ())
    if certificate is not None:
        from irepdeploy.verify.certified import check_certified

        found = check_certified(
            a,
            certificate,
            b,
            inputs,
            input_shape=shapes,
            model_factory=factory,
            seed=seed,
            tolerance=tolerance,
            timeout_s=timeout,
        )
        if as_json:
            print_json(found.to_dict())
        else:
            _show_certified(found)
        if not found.ok:
            raise CheckFailed(found.reason, where=a)
        return
    from irepdeploy.verify.equivalence import verify_models

    assert b is not None
    result = verify_models(
        a,
        b,
        inputs,
        input_shape=shapes,
        model_factory=factory,
        seed=seed or 0,
        tolerance=tolerance or "float32",
        timeout_s=timeout,
    )
    if as_json:
        print_json(result.to_dict())
    else:
        _show(result)
    if not result.ok:
        raise CheckFailed(result.comparison.reason, where=f"{a} and {b}")
    if not as_json:
        ours = ["--model", model] if model else []
        for text in input_shape or ():
            ours += ["--input-shape", text]
        next_step("bench", a, b, *ours, "--out", "results")


def _to_type(a: str) -> str:
    beside = Path(a).parent / "certificate.json"
    if beside.is_file():
        return command_line("verify", Path(a), "--certificate", beside)
    return f"{command_line('verify', Path(a), 'B')}, or {command_line('verify', Path(a), '--certificate', 'FILE')}"


def _show_certified(found: CertifiedFile) -> None:
    known = found.certificate
    source, target, versions = known.source, known.target, known.versions
    rows = [[hop.source, hop.result, *hop.figures, "same" if hop.ok else "DIFFERENT"] for hop in known.hops]
    if found.faults:
        say(f"{found.path}: NOT the file that was certified")
    else:
        title = f"{found.path}: the file that was certified"
        table(title, ["from", "to", "error", "own noise", "allowed", "verdict"], rows)
    say(f"SHA-256: {found.sha256}")
    made = source.get("file") or source.get("net") or "a network in memory"
    say(f"certificate: {known.created}, target {target.get('name')}, source {made} ({source.get('statistics')})")
    say("written by: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    for note in (*found.notes, *found.faults[1:]):
        say(f"note: {note}")
    if found.comparison is not None:
        _show(found.comparison)
    elif not found.faults:
        say(f"not compared with the source again: {found.skipped}")


def _show(result: Verification) -> None:
    comparison = result.comparison
    rows = []
    for output in comparison.outputs:
        agreement = output.top1_note if output.top1_agreement is None else f"{output.top1_agreement:.1%}"
        noise = "-" if output.noise is None else f"{output.noise.rel_error:.0e}"
        figures = [f"{output.rel_error:.2e}", noise, str(comparison.allowed_for(output)), f"{output.cosine:.9f}"]
        rows.append([output.name, *figures, agreement or output.problem])
    verdict = "the same" if result.ok else "DIFFERENT"
    columns = ["output", "error", "own noise", "allowed", "cosine", "top-1 agreement"]
    table(f"{result.a} and {result.b}: {verdict}", columns, rows)
    say("inputs: " + " + ".join(f"{group.count} {group.name}" for group in result.inputs))
    for note in result.notes:
        say(f"note: {note}")
    if comparison.worst_layer is not None:
        say(f"worst layer: {comparison.worst_layer} ({comparison.layers[comparison.worst_layer]:.2e})")
