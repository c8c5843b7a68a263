"""Order of the nodes of an ONNX model, in which each node comes after those whose results it reads."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import onnx

from irepdeploy.onnx_graph.proto import graphs_of, subgraphs_of

__all__ = ["is_sorted", "sort_nodes"]


def is_sorted(model: onnx.ModelProto) -> bool:
    """Return whether the nodes of every graph and function are sorted or cannot be sorted."""
    return all(_order(body.node) is None for body in _bodies(model))


def sort_nodes(model: onnx.ModelProto) -> bool:
    """Sort the nodes of every graph and function in place, and return whether any node moved.

    ONNX requires sorted nodes, but ONNX Runtime does not, and widely used converters append nodes at the end. The
    original order is preserved where possible, and graphs with a cycle are not changed.
    """
    moved = False
    for body in _bodies(model):
        order = _order(body.node)
        if order is not None:
            nodes = list(body.node)
            del body.node[:]
            body.node.extend(nodes[index] for index in order)
            moved = True
    return moved


def _bodies(model: onnx.ModelProto) -> Iterator[Any]:
    # Outer graphs come first, because sorting a graph copies the subgraphs of its nodes.
    yield from model.functions
    yield from graphs_of(model)


def _order(nodes: Sequence[onnx.NodeProto]) -> list[int] | None:
    """Return the sorted indices, or None if the nodes are already sorted or cannot be sorted."""
    if _in_order(nodes):
        return None
    producers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in producers:
                return None
            producers[name] = index
    needs = [{producers[name] for name in _reads(node) if name in producers} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for index, before in enumerate(needs):
        for producer in before:
            readers[producer].append(index)
    ready = [index for index, before in enumerate(needs) if not before]
    order = []
    while ready:
        first = heapq.heappop(ready)
        order.append(first)
        for reader in readers[first]:
            needs[reader].discard(first)
            if not needs[reader]:
                heapq.heappush(ready, reader)
    return order if len(order) == len(nodes) else None


def _in_order(nodes: Sequence[onnx.NodeProto]) -> bool:
    """Return whether no node reads a tensor that it or a later node computes."""
    known, awaited = set[str](), set[str]()
    for node in nodes:
        awaited |= _reads(node) - known
        if not awaited.isdisjoint(filter(None, node.output)):
            return False
        known.update(node.output)
    return True


def _reads(node: Any) -> set[str]:
    """Return the tensors that a node and its subgraphs read, including those computed in the subgraphs."""
    found = set(node.input)
    for graph in subgraphs_of(node):
        for inner in graph.node:
            found.update(inner.input)
        found.update(value.name for value in graph.output)
    return found
