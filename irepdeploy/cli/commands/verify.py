"""The `verify` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from irepdeploy.cli.options import InputsOption, JsonOption, ModelOption, SeedOption, TimeoutOption
from irepdeploy.console import print_json, table
from irepdeploy.errors import CheckFailed

if TYPE_CHECKING:
    from irepdeploy.verify.equivalence import Verification

__all__ = ["verify"]


def verify(
    a: Annotated[str, typer.Argument(metavar="A", help="The reference: a checkpoint, an ONNX file or an engine.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The model that must give the same outputs.")],
    inputs: InputsOption = None,
    model: ModelOption = None,
    seed: SeedOption = 0,
    tolerance: Annotated[
        str, typer.Option("--tolerance", help="Precision whose tolerance applies: float32, float16, ...")
    ] = "float32",
    timeout: TimeoutOption = 300.0,
    as_json: JsonOption = False,
) -> None:
    """Check that two models give the same outputs: 0 if they do, 1 if they do not.

    Example: irepdeploy verify build/fused.pt build/model.onnx
    """
    from irepdeploy.verify.onnx_process import start_onnx_process

    if any(path.lower().endswith(".onnx") for path in (a, b)):
        # It imports its modules while torch is imported here.
        start_onnx_process()
    from irepdeploy.network.checkpoint import load_model_factory
    from irepdeploy.verify.equivalence import verify_models

    factory = load_model_factory(model) if model else None
    result = verify_models(a, b, inputs, model_factory=factory, seed=seed, tolerance=tolerance, timeout_s=timeout)
    if as_json:
        print_json(result.to_dict())
    else:
        _show(result)
    if not result.ok:
        raise CheckFailed(result.comparison.reason, where=f"{a} and {b}")


def _show(result: Verification) -> None:
    comparison = result.comparison
    limit = comparison.tolerance
    rows = []
    for output in comparison.outputs:
        agreement = output.top1_note if output.top1_agreement is None else f"{output.top1_agreement:.1%}"
        error = f"{output.rel_error:.2e}"
        rows.append(
            [output.name, error, f"{limit.max_rel_error:.0e}", f"{output.cosine:.9f}", agreement or output.problem]
        )
    verdict = "the same" if result.ok else "DIFFERENT"
    columns = ["output", "error", "allowed", "cosine", "top-1 agreement"]
    table(f"{result.a} and {result.b}: {verdict}", columns, rows)
    print("inputs: " + " + ".join(f"{group.count} {group.name}" for group in result.inputs))
    if comparison.worst_layer is not None:
        print(f"worst layer: {comparison.worst_layer} ({comparison.layers[comparison.worst_layer]:.2e})")
