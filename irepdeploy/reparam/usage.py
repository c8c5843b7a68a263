"""Analyse with torch.fx how a network uses its convolutions and batch normalizations."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch.fx
from torch import nn

from irepdeploy.errors import ModelError, first_line
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.normalization import NORMS
from irepdeploy.reparam.structure import has_hooks
from irepdeploy.reparam.tracer import Tracer

__all__ = ["Usage", "captured_module", "followers_in_eval", "usage_of"]


@dataclass(frozen=True)
class Usage:
    """The result of tracing a network; empty if it cannot be traced.

    Attributes:
        traced: Whether tracing succeeded.
        called: Names of the convolutions and RepBlocks that ``forward`` calls.
        read: Names of the modules whose parameters ``forward`` reads directly.
        followers: Maps each convolution to the batch normalization that may move into its block. In eval mode and in
            train mode, it is the only reader of the convolution's output and reads nothing else.
    """

    traced: bool = False
    called: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    followers: dict[str, str] = field(default_factory=dict)


def usage_of(model: nn.Module) -> Usage:
    """Trace a copy of `model` in eval mode and in train mode.

    The copy shares the parameters; everything else that ``forward`` may write to is copied.
    """
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    found = []
    for mode in (False, True):
        try:
            twin = copy.deepcopy(model, dict(memo)).train(mode)
            found.append(_of_graph(twin, Tracer().trace(twin)))
        except Exception:  # anything that a foreign module raises when it is copied or traced
            # Moving no batch normalization is correct for every network.
            return Usage()
    calm, training = found
    followers = {
        conv: bn
        for conv, bn in calm.followers.items()
        if training.followers.get(conv) == bn and _may_move(model, conv, bn)
    }
    return Usage(True, calm.called | training.called, calm.read | training.read, followers)


def followers_in_eval(model: nn.Module) -> dict[str, str]:
    """Map each convolution of a network in eval mode to the batch normalization that is its only reader.

    Raises:
        ModelError: ``forward`` cannot be traced.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        twin = copy.deepcopy(model, memo)
        return _of_graph(twin, Tracer().trace(twin)).followers
    except Exception as error:  # anything that a foreign module raises when it is copied or traced
        raise ModelError(f"forward cannot be traced: {first_line(error)}", where=type(model).__name__) from error


def captured_module(model: nn.Module) -> str | None:
    """Return the name of an attribute whose function refers to modules of `model`, or None.

    A copy of the network would keep using the original modules through it.
    """
    own = {id(module) for module in model.modules()}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, types.FunctionType) and any(id(item) in own for item in _captured(value)):
                return f"{name}.{key}".lstrip(".")
    return None


def _captured(function: types.FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # an empty cell
            continue
    yield from function.__defaults__ or ()


def _may_move(model: nn.Module, conv_name: str, bn_name: str) -> bool:
    conv, bn = model.get_submodule(conv_name), model.get_submodule(bn_name)
    if type(bn) not in NORMS or not bn.track_running_stats or not bn.affine:
        return False
    # Hooks on either module must see the same values as before, and code that freezes the second must find it.
    if has_hooks(bn) or has_hooks(conv) or bn.training != conv.training:
        return False
    parts = bn_name.split(".")
    above = [model, *(model.get_submodule(".".join(parts[:count])) for count in range(1, len(parts)))]
    return all(type(module).train is nn.Module.train for module in above)


def _of_graph(model: nn.Module, graph: torch.fx.Graph) -> Usage:
    modules = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}
    followers: dict[str, set[str | None]] = {}
    readers: dict[str, set[str | None]] = {}
    called, read = set(), set()
    for node in graph.nodes:
        if node.op == "get_attr" and "." in str(node.target):
            read.add(str(node.target).rpartition(".")[0])
        if node.op != "call_module":
            continue
        module = model.get_submodule(str(node.target))
        name = names[id(module)]
        if isinstance(module, nn.modules.conv._ConvNd | RepBlock):
            called.add(name)
        if isinstance(module, nn.Conv2d):
            next_names: set[str | None] = set()
            for user in node.users:
                target = model.get_submodule(str(user.target)) if user.op == "call_module" else None
                next_names.add(names[id(target)] if isinstance(target, NORMS) else None)
            followers.setdefault(name, set()).update(next_names or {None})
        elif isinstance(module, NORMS):
            source: Any = node.args[0] if node.args else None
            is_module = isinstance(source, torch.fx.Node) and source.op == "call_module"
            before = model.get_submodule(str(source.target)) if is_module else None
            readers.setdefault(name, set()).add(names[id(before)] if isinstance(before, nn.Conv2d) else None)
    pairs = {}
    for conv_name, bns in followers.items():
        bn_name = next(iter(bns))
        if len(bns) == 1 and bn_name is not None and readers.get(bn_name) == {conv_name} and bn_name not in read:
            pairs[conv_name] = bn_name
    return Usage(True, frozenset(called), frozenset(read), pairs)
