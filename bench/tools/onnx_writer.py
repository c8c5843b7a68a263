"""Compare the torch.fx writer with torch's two ONNX exporters: coverage, time, memory, determinism, operators.

Run ``python -m irepdeploy.bench.tools.onnx_writer FILE.jsonl`` with ``tests`` on the path (for ``support``). The output
of every exporter gets the same clean-up (`tidy`) and collapse, and is compared with the network in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import torch
from torch import nn

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec
from irepdeploy.console import log, table
from irepdeploy.errors import CheckFailed
from irepdeploy.export.diagnosis.audit import Asked, audit
from irepdeploy.export.target.target import target_of
from irepdeploy.export.writer import torch_exporter
from irepdeploy.export.writer.graph import NeedsOpset
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.export.writer.tidy import tidy
from irepdeploy.network.nets import NETS, build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.onnx_collapse import collapse
from irepdeploy.onnx_graph.proto import opset_of
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.origin import origin_of
from irepdeploy.runtime.memory import peak_bytes, reset_peak
from irepdeploy.runtime.quiet_exporter import quiet_exporter
from irepdeploy.runtime.torch_runner import flattened

from .harness import keep_line

__all__ = ["EXPORTERS", "exported", "measure_case", "small_networks"]

OPSETS = (13, 20)
NETWORKS = ("vgg16", "resnet18", "resnet50", "darts_cifar")
# The first pass only runs every n-th small network.
_EVERY = 4
BRANCHED = ("vgg16",)
_BOARD = target_of("xavier-jp5")

Exporter = Callable[[nn.Module, Sequence[TensorSpec], int], onnx.ModelProto]


def _by_writer(model: nn.Module, specs: Sequence[TensorSpec], opset: int) -> onnx.ModelProto:
    try:
        return onnx_from_torch(model, specs, opset=opset)
    except NeedsOpset as later:
        # As in an export: GridSample exists from opset 16 on.
        return onnx_from_torch(model, specs, opset=later.opset)


def _by_torch(export: Callable[..., onnx.ModelProto], lowest: int = 0) -> Exporter:
    def exporter(model: nn.Module, specs: Sequence[TensorSpec], opset: int) -> onnx.ModelProto:
        examples = torch_exporter._examples(specs, 2)
        returned = list(flattened(model(*examples)))
        names = ["output"] if len(returned) == 1 else [f"out_{index}" for index in range(len(returned))]
        free = [spec.name for spec in specs if None in spec.shape]
        axes = {name: {0: "N"} for name in (*free, *names)} if free else {}
        with quiet_exporter():
            # The newer exporter writes opset 18 or later, and rarely converts to an earlier one itself.
            proto = export(model, examples, specs, names, axes, max(opset, lowest))
        if opset < lowest:
            proto = _converted(proto, opset)
        tidy(proto, ir_version=8)
        found = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
        if found != opset:
            raise ValueError(f"expected opset {opset}, got {found}")
        return proto

    return exporter


def _converted(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Convert with onnx's converter, or just change the opset number if that gives a valid model."""
    try:
        converted = onnx.version_converter.convert_version(proto, opset)
        onnx.checker.check_model(converted, full_check=True)
        return converted
    except Exception:  # the converter has no adapter for many operators, or leaves a wrong one
        proto.opset_import[0].version = opset
        onnx.checker.check_model(proto, full_check=True)
        return proto


EXPORTERS: dict[str, Exporter] = {
    "writer": _by_writer,
    "torch dynamo": _by_torch(torch_exporter._by_dynamo, lowest=18),
    "torch script": _by_torch(torch_exporter._by_torchscript),
}


@torch.no_grad()
def exported(exporter: str, model: nn.Module, shape: Sequence[int], opset: int) -> tuple[onnx.ModelProto, float]:
    """Return the model with a dynamic batch, and the CPU seconds taken, including serialization."""
    start = time.process_time()
    proto = EXPORTERS[exporter](model, [TensorSpec("input", (None, *shape))], opset)
    serialized(proto)
    return proto, time.process_time() - start


def measure_case(exporter: str, model: nn.Module, shape: Sequence[int], opset: int) -> dict[str, Any]:
    """Export once, and check the outputs at three batch sizes and the limits of TensorRT 8.5's parser."""
    before, peak = reset_peak(), None
    try:
        try:
            proto, seconds = exported(exporter, model, shape, opset)
        finally:
            peak = None if before is None else peak_bytes() - before
        wrong = _wrong_batch(proto, model, shape)
    except Exception as error:  # an exporter may raise anything
        message = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]}"
        return {"failed": message, "peak_bytes": peak}
    content, opset = serialized(proto), opset_of(proto)
    collapsed = collapse(content).model
    operators = Counter(node.op_type for node in collapsed.graph.node)
    return {
        "cpu_s": round(seconds, 5),
        "peak_bytes": peak,
        "sha256": hashlib.sha256(content).hexdigest()[:16],
        "nodes": len(proto.graph.node),
        "collapsed_nodes": len(collapsed.graph.node),
        "not_in_tensorrt_8_5": sorted(set(operators) - (_BOARD.operators or set())),
        **({"failed": f"other outputs at batch {wrong}"} if wrong else {}),
        **({} if opset > 17 else {"board": _board_fault(content, proto, shape, opset)}),
    }


def _wrong_batch(proto: onnx.ModelProto, model: nn.Module, shape: Sequence[int]) -> int | None:
    with OrtRunner(serialized(proto)) as runner:
        for batch in (1, 2, 5):
            x = np.random.default_rng(batch).standard_normal((batch, *shape), dtype=np.float32)
            with torch.inference_mode():
                expected = [tensor.numpy() for tensor in flattened(model(torch.from_numpy(x.copy())))]
            found = list(runner.infer({"input": x}).values())
            for a, b in zip(expected, found, strict=True):
                if a.shape != b.shape or np.abs(a - b).max() > 1e-4 * max(np.abs(a).max(), 1e-6):
                    return batch
    return None


def _board_fault(content: bytes, proto: onnx.ModelProto, shape: Sequence[int], opset: int) -> str | None:
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        Path(file.name).write_bytes(content)
        names = [value.name for value in proto.graph.output]
        try:
            asked = Asked(dynamic_batch=True, opset=opset, given=True)
            audit(file.name, _BOARD, [TensorSpec("input", (None, *shape))], names, asked)
        except CheckFailed as error:
            # Sizes are checked last, since `onnx_by_torch` fills in those that an exporter leaves unset.
            return None if "beyond its batch" in error.what else error.what[:160]
    return None


def small_networks() -> Iterator[tuple[str, nn.Module, tuple[int, ...]]]:
    """Yield all operators that the writer's tests export, and foreign classes with published blocks in train state."""
    from support.operator_networks import FUNCTIONS, INPUT_SHAPE, MODULES, operator_network
    from support.published_networks import PUBLISHED, published_network

    for kind in (*FUNCTIONS, *MODULES):
        yield kind, randomize_statistics(operator_network(kind)).eval(), INPUT_SHAPE
    for name, network in PUBLISHED.items():
        yield f"published: {name}", published_network(name), network.input_shape


def _child_small(every: int, opsets: Sequence[int]) -> None:
    for number, (name, model, shape) in enumerate(small_networks()):
        if number % every:
            continue
        if not number:
            for exporter in EXPORTERS:
                measure_case(exporter, model, shape, 13)
        for opset in opsets:
            for exporter in EXPORTERS:
                line = measure_case(exporter, model, shape, opset)
                print(json.dumps({"network": name, "exporter": exporter, "opset": opset, **line}), flush=True)


def _child_large(name: str, exporter: str, opsets: Sequence[int]) -> None:
    torch.manual_seed(0)
    net = (
        fuse(randomize_statistics(build(name, branches="ireps").eval()), prove=False)
        if name in BRANCHED
        else randomize_statistics(build(name).eval())
    )
    shape = origin_of(net).input_shape or NETS[name].input_shape
    # Warm up: imports, and everything that an exporter loads for its first network.
    measure_case(exporter, nn.Sequential(nn.Conv2d(shape[0], 4, 3)).eval(), shape, 13)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    for opset in opsets:
        line = measure_case(exporter, net, shape, opset)
        facts = {"network": name, "exporter": exporter, "opset": opset, "weights_bytes": weights}
        print(json.dumps({**facts, **line}), flush=True)


def _lines(*arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "irepdeploy.bench.tools.onnx_writer", "--child", *arguments]
    return [
        json.loads(line) for line in subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()
    ]


def _rows(runs: list[list[dict[str, Any]]], opset: int) -> list[list[str]]:
    by: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for line in [*runs[0], *runs[1]]:
        if line["opset"] == opset:
            by[line["exporter"]][line["network"]] = line
    pairs = [{(line["exporter"], line["network"]): line for line in run if line["opset"] == opset} for run in runs]
    rows = []
    for exporter, lines in by.items():
        good = {name: line for name, line in lines.items() if "failed" not in line}
        both = [name for name in good if "failed" not in by["writer"].get(name, {"failed": ""})]
        ratios = [good[name]["cpu_s"] / by["writer"][name]["cpu_s"] for name in both]
        nodes = [sum(by[kind][name]["collapsed_nodes"] for name in both) for kind in (exporter, "writer")]
        twice = [name for name in good if all((exporter, name) in run for run in pairs)]
        same = sum(len({run[exporter, name].get("sha256") for run in pairs}) == 1 for name in twice)
        board = sum(line.get("board", "") is None for line in good.values())
        beyond = sorted({name for line in good.values() for name in line["not_in_tensorrt_8_5"]})
        rows.append(
            [
                exporter,
                str(opset),
                f"{len(good)} of {len(lines)}",
                str(board) if opset <= 17 else "-",
                f"{statistics.median(ratios):.1f}" if ratios else "-",
                f"{nodes[0] / nodes[1]:.2f}" if both else "-",
                f"{same} of {len(twice)}" if twice else "-",
                ", ".join(beyond) or "none",
            ]
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure in child processes, each pass twice, print the tables and append the lines to a file."""
    parser = argparse.ArgumentParser(prog="python -m irepdeploy.bench.tools.onnx_writer", description=__doc__)
    parser.add_argument("record", nargs="?", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.child:
        first, second, *opsets = asked.child
        if first == "small":
            _child_small(int(second), [int(opset) for opset in opsets])
        else:
            _child_large(first, second, [int(opset) for opset in opsets])
        return
    opsets = [str(opset) for opset in OPSETS]
    large: list[list[dict[str, Any]]] = []
    small: list[list[dict[str, Any]]] = []
    for number, every, asked_opsets in ((1, _EVERY, opsets), (2, 1, opsets[:1])):
        large.append([line for name in NETWORKS for kind in EXPORTERS for line in _lines(name, kind, *asked_opsets)])
        small.append(_lines("small", str(every), *asked_opsets))
        log(f"pass {number} of 2")
        keep_line(asked.record, "ONNX writer", networks=large[-1], operators=small[-1])
    columns = ["exporter", "opset", "right", "and for TensorRT 8.5", "x time", "x nodes", "same bytes", "beyond 8.5"]
    for title, runs in (("Networks", large), ("Operators and foreign blocks", small)):
        table(title, columns, [row for opset in OPSETS for row in _rows(runs, opset)])
    memory = [
        [line["exporter"], line["network"], f"{line['peak_bytes'] / line['weights_bytes']:.1f}"]
        for line in large[0]
        if line["opset"] == 13 and line["peak_bytes"]
    ]
    table("Peak memory of an export, x weights", ["exporter", "network", "x weights"], memory)


if __name__ == "__main__":
    main()
