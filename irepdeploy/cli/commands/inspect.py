"""The `inspect` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from irepdeploy.cli.options import InputShapeOption, JsonOption, ModelOption, SeedOption, SourceArgument
from irepdeploy.console import log, next_step, print_json, progress, say, table
from irepdeploy.errors import InputError, counted

if TYPE_CHECKING:
    from irepdeploy.profiling.branch_cost import BranchCosts, CostRequest
    from irepdeploy.profiling.counts import Counts
    from irepdeploy.profiling.health import LayerHealth
    from irepdeploy.profiling.inspection import Inspection, LayerFacts

__all__ = ["inspect"]

_FIGURES = {
    "max |W|": ("max_weight", ".3g"),
    "max |b|": ("max_bias", ".3g"),
    "beyond fp16": ("fp16_overflow", ","),
    "lost in fp16": ("fp16_lost", ".1%"),
    "int8 dB": ("int8_tensor_db", ".1f"),
    "by channel": ("int8_channel_db", ".1f"),
    "worst channel": ("int8_worst_channel_db", ".1f"),
}


def inspect(
    source: SourceArgument,
    arch: Annotated[
        Path | None, typer.Option("--arch", help="Architecture file; its branches are inserted first.")
    ] = None,
    model: ModelOption = None,
    cost: Annotated[
        bool, typer.Option("--cost", help="Measure the cost of a training step: plain, as given, and with each preset.")
    ] = False,
    presets: Annotated[
        str | None,
        typer.Option("--presets", help="With --cost: comma-separated presets to measure. [all that fit]"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", min=1, max=(1 << 31) - 1, help="With --cost: images per step. [32]")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="8GB", help="With --cost: show which networks train within this memory."),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option("--device", help="With --cost: torch device. [cuda if available]"),
    ] = None,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Also show the weight in each fused kernel, by tap and by branch.")
    ] = False,
    arch_weights: Annotated[
        bool, typer.Option("--arch-weights", help="Also show the weight of each branch given by alpha and beta.")
    ] = False,
    input_shape: InputShapeOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Show a network layer by layer: its branches, its size in train and fused state, and the health of its weights.

    Example: irepdeploy inspect vgg16 --cost --presets ireps,repvgg --batch 64 --memory 8GB
    """
    from irepdeploy.network.factory import load_model_factory
    from irepdeploy.profiling.inspection import inspect_model
    from irepdeploy.reparam.architecture import Architecture
    from irepdeploy.verify.input_spec import input_specs

    request = _request(cost, presets, batch, memory, device)
    architecture = None if arch is None else Architecture.load(arch)
    factory = load_model_factory(model) if model else None
    with progress() as display:
        found = inspect_model(
            source,
            model_factory=factory,
            architecture=architecture,
            seed=seed,
            input_shape=input_specs(input_shape or ()),
            cost=request,
            display=display,
        )
    tables = []
    if kernels or arch_weights:
        from irepdeploy.plots.tables import network_tables

        tables = network_tables(source, factory, architecture, seed, kernels=kernels, arch_weights=arch_weights)
    if as_json:
        print_json(found.to_dict() | {each.key: each.figures for each in tables})
        return
    _show(found)
    for each in tables:
        say()
        table(each.title, each.columns, each.rows)
        for note in each.notes:
            say(note)
    if found.cost is not None:
        _show_cost(found.cost)
    for text in found.warnings:
        log(f"warning: {text}")
    next_step("export", source, *(("--model", model) if model else ()))


def _request(
    cost: bool, presets: str | None, batch: int | None, memory: str | None, device: str | None
) -> CostRequest | None:
    given = {"--presets": presets, "--batch": batch, "--memory": memory, "--device": device}
    idle = [name for name, value in given.items() if value is not None]
    if not cost:
        if idle:
            raise InputError(f"{' and '.join(idle)} without --cost", hint="add --cost")
        return None
    from irepdeploy.profiling.branch_cost import CostRequest
    from irepdeploy.runtime.memory import parse_size

    names = None if presets is None else tuple(name.strip() for name in presets.split(",") if name.strip())
    if names == ():
        raise InputError("--presets is empty", hint="omit it to measure all that fit")
    return CostRequest(
        presets=names,
        batch_size=batch or CostRequest.batch_size,
        memory_bytes=None if memory is None else parse_size(memory),
        device=device,
    )


def _show(found: Inspection) -> None:
    for line in _headlines(found):
        say(line)
    say()
    _show_branches(found.layers)
    _show_sizes(found)
    for note in found.notes:
        say(note)
    _show_health(found.layers)
    if found.operators:
        say()
        table("Nodes", ["operator", "count"], list(found.operators.items()))


def _headlines(found: Inspection) -> list[str]:
    facts = found.facts
    if found.kind == "onnx":
        ends = [f"{name} {_shape(shape)}" for name, shape in (facts["inputs"] | facts["outputs"]).items()]
        made = [f"{key.removeprefix('irepdeploy.')} {text}" for key, text in facts["metadata"].items()]
        return [
            f"{found.source}: ONNX, opset {facts['opset']}, IR version {facts['ir_version']}"
            + (f", by {facts['producer']}" if facts["producer"] else ""),
            f"inputs and outputs: {', '.join(ends)}",
            *([f"metadata: {'; '.join(made)}"] if made else []),
        ]
    name = facts["net"] or facts["factory"] or "a network of another package"
    # A network of another package is in train state only if branches were inserted.
    plain = facts["state"] == "train" and not facts["net"] and not any(layer.branches for layer in found.layers)
    state = "without branches of irepdeploy" if plain else f"{facts['state']} state"
    lines = [f"{found.source}: {'' if name == found.source else f'{name}, '}{state}"]
    if facts["architecture"]:
        counts = [len(layer.branches) for layer in found.layers if layer.branches]
        where = "were fused into" if facts["state"] == "fused" else "at"
        lines[0] += f"; {counted(sum(counts), 'branch', 'branches')} {where} {counted(len(counts), 'convolution')}"
        lines.append(f"Architecture: {facts['architecture']}")
    details = [f"weights: {facts['statistics']}"]
    if facts["input_shape"]:
        details.insert(0, f"input: {_shape(facts['input_shape'])}")
    if facts["dataset"]:
        details.append(f"data set: {facts['dataset']}")
    return [*lines, "; ".join(details)]


def _show_branches(layers: list[LayerFacts]) -> None:
    branched = [layer for layer in layers if layer.branches]
    names = list(dict.fromkeys(name for layer in branched for name in layer.branches))
    if names:
        rows = [[layer.layer, *("x" if name in layer.branches else "." for name in names)] for layer in branched]
        table("Branches", ["layer", *names], rows)
        say()


def _show_sizes(found: Inspection) -> None:
    layers = [layer for layer in found.layers if layer.operation or _size(layer.train) or _size(layer.fused)]
    cells: dict[str, list[str]] = {
        "layer": [*(layer.layer if layer.operation else "everything else" for layer in layers), "total"],
        "operation": [*(layer.operation for layer in layers), ""],
    }
    counts = [len(layer.branches) for layer in layers]
    if any(counts):
        cells["branches"] = [*(str(count or "") for count in counts), str(sum(counts))]
    states = ("fused",) if found.kind == "onnx" else ("train", "fused")
    for figure, text in (("params", "params"), ("macs", "MACs")):
        for state in states:
            counted: list[Counts | None] = [*(getattr(layer, state) for layer in layers), getattr(found, state)]
            column = text if len(states) == 1 else f"{text}, {state}"
            cells[column] = [_number(None if part is None else getattr(part, figure)) for part in counted]
    title = "Size" if found.kind == "onnx" else "Size in train state and fused, as deployed"
    table(title, list(cells), list(zip(*cells.values(), strict=True)))


def _size(counts: Counts | None) -> int:
    return 0 if counts is None else counts.params + (counts.macs or 0)


def _show_health(layers: list[LayerFacts]) -> None:
    health = [layer.health for layer in layers if layer.health is not None]
    if not health:
        return
    changed = any(layer.before not in (None, layer.after) for layer in health)
    say()
    table(
        f"Health of the weights{', before -> after the fuse' if changed else ''}",
        ["layer", *_FIGURES],
        [[layer.layer, *(_pair(layer, figure, form) for figure, form in _FIGURES.values())] for layer in health],
    )
    say("int8 dB: signal-to-quantization-noise ratio of the weights, not accuracy: with one scale per kernel, with one")
    say("per channel, and of the worst channel with one scale per kernel.")
    if changed:
        say("before: the fixed convolution alone, with its batch normalization folded, as in a plain network.")


def _pair(layer: LayerHealth, figure: str, form: str) -> str:
    values = [getattr(part, figure) for part in (layer.before, layer.after) if part is not None]
    texts = ["-" if value is None else format(value, form) for value in values]
    return " -> ".join(dict.fromkeys(texts))


def _show_cost(costs: BranchCosts) -> None:
    from irepdeploy.limits import size_text

    first = costs.rows[0].time
    rows = []
    for row in costs.rows:
        times = "-" if row.time is None else f"{row.time.seconds:.3g}"
        ratio = "-" if row.time is None or first is None else f"{row.time.seconds / first.seconds:.2f}"
        peak = row.memory.peak_bytes
        held = "ran out" if row.memory.out_of_memory else "-" if peak is None else size_text(peak)
        rows.append([row.name, row.branches, _number(row.params), _number(row.macs), times, ratio, held])
    threads = counted(costs.threads, "thread")
    place = f"CPU, {threads}" if costs.device == "cpu" else costs.device_name
    samples = max((row.time.samples for row in costs.rows if row.time is not None), default=0)
    how = f"batch {costs.batch_size}" + (
        f", median of {counted(samples, 'step')} of SGD with momentum" if samples else ""
    )
    say()
    table(
        f"Training on this machine: {place}, {how}",
        ["network", "branches", "params", "MACs", "s per step", "x first", "peak memory"],
        rows,
    )
    if costs.memory_bytes is not None:
        limit = size_text(costs.memory_bytes)
        for text, fits in ((f"trains within {limit}", True), (f"does not fit {limit}", False), ("not known", None)):
            names = [row.name for row in costs.rows if row.fits is fits]
            if names:
                say(f"{text}, batch {costs.batch_size}: {'; '.join(names)}")
    for note in costs.notes:
        say(note)


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _shape(shape: list[Any]) -> str:
    return "x".join(map(str, shape))
