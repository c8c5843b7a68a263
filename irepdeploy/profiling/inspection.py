"""Inspect the layers, the size in train and fused state, and the health of a network or an ONNX file."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from irepdeploy.board.json_values import json_safe
from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import ArchitectureError, InputError, NotFusable, counted, one_line
from irepdeploy.network.factory import built, remembered
from irepdeploy.network.nets import NETS, build_plain
from irepdeploy.network.source import Source, open_source, with_blocks
from irepdeploy.profiling.counts import REST, Counts, conv_text, count_layers
from irepdeploy.profiling.health import LayerHealth, health_warnings, kernel_health, network_health
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.origin import FUSED, TRAIN, Origin, set_origin, with_inputs
from irepdeploy.reparam.structure import rebuild
from irepdeploy.verify.declared import Declared

if TYPE_CHECKING:
    from irepdeploy.console import ProgressDisplay
    from irepdeploy.profiling.branch_cost import BranchCosts, CostRequest

__all__ = ["Inspection", "LayerFacts", "inspect_model"]


@dataclass(frozen=True)
class LayerFacts:
    """One layer, or `REST`.

    Attributes:
        layer: Name of the layer.
        operation: Description of its operation.
        branches: Names of its branches.
        train: Counts in train state, or None if the layer or the state does not exist.
        fused: Counts in fused state, or None if the layer or the state does not exist.
        health: Numerical health, or None if it is unknown.
    """

    layer: str
    operation: str
    branches: tuple[str, ...]
    train: Counts | None
    fused: Counts | None
    health: LayerHealth | None


@dataclass(frozen=True)
class Inspection:
    """Result of an inspection.

    Attributes:
        source: Label of the network or file.
        kind: "network" or "onnx".
        facts: For a network, the facts of its `Source` and its input shape; for an ONNX file, its opset, inputs etc.
        layers: All layers.
        train: Total in train state, or None if that state is unknown.
        fused: Total in fused state, or None if that state is unknown. An ONNX file is in fused state.
        operators: Number of operators of each type in an ONNX file.
        notes: Remarks on the figures.
        warnings: Problems found.
        cost: Cost of training, if it was requested.
    """

    source: str
    kind: str
    facts: dict[str, Any]
    layers: list[LayerFacts]
    train: Counts | None
    fused: Counts | None
    operators: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cost: BranchCosts | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return json_safe(asdict(self))


def inspect_model(
    source: str | os.PathLike[str] | nn.Module,
    *,
    model_factory: Callable[[], nn.Module] | None = None,
    architecture: Architecture | None = None,
    seed: int = 0,
    input_shape: Sequence[TensorSpec] = (),
    cost: CostRequest | None = None,
    display: ProgressDisplay | None = None,
) -> Inspection:
    """Inspect a network in train and fused state, or an ONNX file.

    Args:
        source: A checkpoint, an ``.onnx`` file, the name of a network, which gets seeded random weights and statistics,
            or a network, which is not changed.
        model_factory: Function that builds the class of a foreign checkpoint.
        architecture: Branches to insert first.
        seed: Seed of random weights, statistics and images.
        input_shape: Sizes of inputs that are free in the file or unknown for the network.
        cost: Also train the network for a few steps with and without branches, and measure time and memory.
        display: Display that shows the progress.

    Raises:
        InputError: There is no such file or network, the file is damaged, or options do not apply to it.
        MissingError: The network needs a library or a device that is not available.
        RunError: A training step failed.
    """
    if isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".onnx":
        if architecture is not None or cost is not None:
            raise InputError(
                "an ONNX model has no branches and cannot be trained",
                where=source,
                hint="give the checkpoint from which it was exported",
            )
        return _onnx(source, input_shape)
    opened = open_source(source, model_factory, seed, architecture)
    if input_shape:
        specs = Declared.of_specs(input_shape).with_free_batch
        opened = replace(opened, model=with_inputs(set_origin(copy.copy(opened.model), opened.origin), specs))
    found = _network(opened, model_factory)
    if cost is None:
        return found
    from irepdeploy.profiling.branch_cost import branch_costs

    measured = branch_costs(opened, cost, model_factory=model_factory, seed=seed, display=display)
    return replace(found, cost=measured)


def _network(source: Source, model_factory: Callable[[], nn.Module] | None) -> Inspection:
    model, origin = source.model, source.origin
    notes, warnings = list[str](), list[str]()
    if source.facts["file"] is None and origin.net in NETS and NETS[origin.net].note:
        # For example, layers that differ from those of the paper.
        notes.append(NETS[origin.net].note)
    train: nn.Module | None
    fused: nn.Module | None
    if origin.state == FUSED:
        train, fused = _train_state(origin, model_factory), model
        if train is None:
            notes.append("train state: not known, since the original network cannot be built")
        health = network_health(model)
    else:
        train = with_blocks(model) or model
        try:
            fused = fuse(train, prove=False)
        except NotFusable as error:
            fused = None
            warnings.append(f"no fused state: {error.line}")
        health = network_health(train, fused)
    shape = origin.input_shape or None
    inputs = () if shape else origin.specs
    if not (shape or inputs):
        notes.append(
            "MACs: not known, since the network has no input shape; --input-shape 1xCxHxW gives it, and "
            "irepdeploy.save(net, path, input_shape=(C, H, W)) stores it"
        )
    counted = {}
    for state, net in (("train", train), ("fused", fused)):
        counted[state], problem = _counted(net, shape, inputs)
        if problem and problem not in notes:
            notes.append(problem)
    modules = dict((train or model).named_modules())
    if origin.state == FUSED:
        branches = {layer.name: layer.branches for layer in origin.layers}
    else:
        branches = {name: module.active for name, module in modules.items() if isinstance(module, RepBlock)}
    layers = _layers(counted["train"], counted["fused"], {layer.layer: layer for layer in health}, branches, modules)
    return Inspection(
        source.label,
        "network",
        {**source.facts, "input_shape": list(shape or ())},
        layers,
        _total(counted["train"]),
        _total(counted["fused"]),
        notes=notes,
        warnings=[*warnings, *health_warnings(health)],
    )


def _onnx(path: str | os.PathLike[str], input_shape: Sequence[TensorSpec]) -> Inspection:
    from irepdeploy.onnx_graph.facts import read_onnx
    from irepdeploy.onnx_graph.model_file import file_digest

    found = read_onnx(path)
    if input_shape:
        dtypes = {spec.name: spec.dtype for spec in input_shape}
        sizes: Any = {
            name: tuple(None if size == "?" else size for size in shape) for name, shape in found.inputs.items()
        }
        declared = Declared(os.fspath(path), sizes, {name: dtypes.get(name, "float32") for name in sizes}, {})
        found = read_onnx(path, {spec.name: spec.shape for spec in declared.with_sizes(input_shape).specs})
    layers = []
    for layer in found.layers:
        operation = layer.operator if layer.conv is None else conv_text(*layer.conv)
        health = LayerHealth(layer.name, (), None, kernel_health(*layer.weights)) if layer.weights else None
        layers.append(LayerFacts(layer.name, operation, (), None, Counts(layer.params, layer.macs), health))
    rest = Counts(found.params - sum(layer.params for layer in found.layers), None if found.macs is None else 0)
    layers.append(LayerFacts(REST, "", (), None, rest, None))
    notes = []
    if found.macs is None:
        unknown = [layer for layer in found.layers if layer.macs is None]
        notes.append(f"total MACs: not known, since the shapes of {counted(len(unknown), 'node')} are dynamic")
    if found.not_counted:
        notes.append(f"not counted in any MACs: {', '.join(found.not_counted)}")
    if "BatchNormalization" in found.operators:
        notes.append("health is that of the kernels in the file, without the batch normalization after them")
    known = [layer.health for layer in layers if layer.health is not None]
    hidden = found.operators.get("Conv", 0) - len(known)
    if hidden:
        notes.append(
            f"health of {counted(hidden, 'convolution')}: not known, since their weights are not floats "
            "stored in the file"
        )
    keys = ("opset", "ir_version", "producer", "inputs", "outputs", "metadata")
    facts = {"file": os.fspath(path), "sha256": file_digest(path), **{key: getattr(found, key) for key in keys}}
    counts = Counts(found.params, found.macs)
    return Inspection(
        os.fspath(path), "onnx", facts, layers, None, counts, found.operators, notes, health_warnings(known)
    )


def _train_state(origin: Origin, model_factory: Callable[[], nn.Module] | None) -> nn.Module | None:
    """Return the structure in which a fused network was trained, with initial values, or None if it cannot be built."""
    if origin.net is not None:
        base = build_plain(origin.net, **origin.args)
    else:
        factory = model_factory or remembered(origin)
        if factory is None:
            return None
        base = built(factory, origin, origin.factory)
    try:
        return rebuild(base, replace(origin, state=TRAIN))
    except ArchitectureError:  # the factory builds a different network from the one that was fused
        return None


def _counted(
    net: nn.Module | None, shape: tuple[int, ...] | None, inputs: Sequence[TensorSpec]
) -> tuple[dict[str, Counts], str | None]:
    if net is None:
        return {}, None
    try:
        return count_layers(net, shape, inputs), None
    except Exception as error:  # a foreign forward may raise anything
        reason = one_line(error)
        given = ", ".join(map(str, inputs)) or shape
        return count_layers(net, None), f"MACs: not known, since the network does not run on {given}: {reason}"


def _layers(
    train: Mapping[str, Counts],
    fused: Mapping[str, Counts],
    health: Mapping[str, LayerHealth],
    branches: Mapping[str, tuple[str, ...]],
    modules: Mapping[str, nn.Module],
) -> list[LayerFacts]:
    names = [name for name in {**train, **fused} if name != REST]
    found = [
        LayerFacts(
            name, _operation(modules[name]), branches.get(name, ()), train.get(name), fused.get(name), health.get(name)
        )
        for name in names
    ]
    return [*found, LayerFacts(REST, "", (), train.get(REST), fused.get(REST), None)]


def _operation(module: nn.Module) -> str:
    conv = module.fixed.conv if isinstance(module, RepBlock) else module
    if isinstance(conv, nn.modules.conv._ConvNd):
        text = conv_text(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.dilation, conv.groups)
        return text if isinstance(conv, nn.Conv2d) else f"{text} ({type(conv).__name__})"
    return f"linear {conv.in_features} -> {conv.out_features}" if isinstance(conv, nn.Linear) else type(conv).__name__


def _total(layers: Mapping[str, Counts]) -> Counts | None:
    if not layers:
        return None
    macs = [counts.macs for counts in layers.values()]
    whole = None if None in macs else sum(count for count in macs if count is not None)
    return Counts(sum(counts.params for counts in layers.values()), whole)
