"""Every operator of the writer, compared with torch in ONNX Runtime at odd sizes, with static and dynamic batch.

Each file must also pass the audit of the strictest target, so that no handler writes a form that TensorRT 8.5 misreads,
and its float16 version must agree with it.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec
from irepdeploy.board.trt_library import load_tensorrt, logger_of
from irepdeploy.errors import ModelError
from irepdeploy.export import writer
from irepdeploy.export.diagnosis.audit import Asked, audit
from irepdeploy.export.precision.fp16 import half_graph
from irepdeploy.export.target.target import target_of
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.comparator import relative_error
from support.operator_networks import FUNCTIONS, INPUT_SHAPE, MODULES, Call, operator_network

KINDS = [*FUNCTIONS, *MODULES]
OPSETS = {"grid_sample": 16}


@functools.cache
def exported(kind: str, batch: int | None) -> tuple[nn.Module, onnx.ModelProto]:
    model = randomize_statistics(operator_network(kind)).eval()
    return model, onnx_from_torch(model, [TensorSpec("input", (batch, *INPUT_SHAPE))], opset=OPSETS.get(kind, 13))


def images(batch: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(batch).standard_normal((batch, *INPUT_SHAPE), dtype=np.float32)


@pytest.mark.parametrize("batch", [2, None], ids=["static", "dynamic"])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_equal_those_of_torch(tmp_path: Path, kind: str, batch: int | None) -> None:
    model, proto = exported(kind, batch)
    content = serialized(proto)
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    names = [value.name for value in proto.graph.output]
    spec = TensorSpec("input", (batch, *INPUT_SHAPE))
    audit(path, target_of("xavier-jp5"), [spec], names, Asked(dynamic_batch=batch is None, opset=OPSETS.get(kind)))
    with OrtRunner(content) as runner:
        for size in [1, 2, 5] if batch is None else [batch]:
            x = images(size)
            with torch.inference_mode():
                expected = model(torch.from_numpy(x.copy()))
            expected = expected if isinstance(expected, tuple | list) else (expected,)
            found = runner.infer({"input": x})
            assert len(expected) == len(names)
            for name, tensor in zip(names, expected, strict=True):
                reference = tensor.numpy()
                assert found[name].shape == reference.shape
                assert found[name].dtype == reference.dtype
                if reference.dtype.kind != "f":
                    assert (found[name] == reference).all()
                    continue
                assert np.abs(found[name] - reference).max() <= 3e-6 * max(np.abs(reference).max(), 1e-6)
    # The same in float16, in types that are right throughout.
    half = half_graph(proto)
    onnx.checker.check_model(half, full_check=True)
    with OrtRunner(serialized(half)) as runner:
        for name, rounded in runner.infer({"input": x}).items():
            assert rounded.dtype == found[name].dtype
            assert relative_error(found[name], rounded) <= 1e-2


REFUSED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "batch as a number": (lambda m, x: x * x.shape[0], "depend on the batch"),
    "mean over the batch": (lambda m, x: x.mean(0), "dynamic batch"),
    "constant of the batch": (lambda m, x: x + torch.arange(float(x.shape[0])).view(-1, 1, 1, 1), "constant depends"),
    "split of the batch": (lambda m, x: x.chunk(x.shape[0], 0)[0], "other"),
    "other things for one": (lambda m, x: x.relu() if x.shape[0] == 1 else x.sigmoid(), "other operators"),
    "squeeze": (lambda m, x: x.squeeze(), "other dimensions"),
    "stretched to the batch": (lambda m, x: x[:1].expand_as(x), "dynamic batch|beyond"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_batch_that_is_baked_in_is_refused(kind: str) -> None:
    function, reason = REFUSED[kind]
    with pytest.raises(ModelError, match=reason):
        onnx_from_torch(Call(function).eval(), [TensorSpec("input", (None, *INPUT_SHAPE))])


def everything_written() -> Iterator[tuple[str, onnx.ModelProto]]:
    return ((kind, exported(kind, None)[1]) for kind in KINDS)


def test_every_operator_is_here() -> None:
    """The networks above are written with every operator that the writer's source names."""
    folder = Path(writer.__file__).parent
    sources = [ast.parse(path.read_text()) for path in folder.glob("*.py") if path.name != "tidy.py"]
    constants = {str(node.value) for tree in sources for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    # "Size" is a type of the writer's own.
    named = {name for name in constants if name.isidentifier() and onnx.defs.has(name)} - {"Size"}
    written = {node.op_type for _, proto in everything_written() for node in proto.graph.node}
    assert written == named | {"ReduceMax", "ReduceMin"}


@pytest.mark.trt
def test_tensorrt_parses_every_operator() -> None:
    library = load_tensorrt("tensorrt_rtx")
    messages: list[tuple[str, str]] = []
    logger = logger_of(library.module, lambda severity, text: messages.append((severity, text)))
    builder, failed = library.module.Builder(logger), []
    for name, proto in everything_written():
        for model in (proto, half_graph(proto)):
            network = builder.create_network(0)
            if not library.module.OnnxParser(network, logger).parse(serialized(model)):
                failed.append(name)
    assert not failed, messages[-5:]
