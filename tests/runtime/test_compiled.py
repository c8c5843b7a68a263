"""Compiled training steps. A backend that runs what dynamo captured keeps them fast; one slow test is for inductor."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.config as dynamo
from torch import nn

from irepdeploy.errors import MissingError, ModelError
from irepdeploy.runtime import compiled
from irepdeploy.runtime.compiled import compile_step

CPU = torch.device("cpu")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that dynamo captures, which are run as they are."""
    found: list[Any] = []

    def backend(graph: Callable[..., Any], inputs: Any) -> Callable[..., Any]:
        found.append(graph)
        return graph

    monkeypatch.setattr(compiled, "_BACKEND", backend)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    return found


def test_each_shape_is_one_graph_and_too_many_are_an_error(graphs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_MOST_GRAPHS", 2)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    call = compile_step(net, CPU, "train.compile")
    for count in (4, 3, 4, 3):
        x = torch.randn(count, 1, 5, 5)
        assert torch.equal(call(x), net(x))
    assert len(graphs) == 2
    assert next(iter(net.state_dict())) == "0.weight"
    with pytest.raises(ModelError, match=r"train\.compile: .* more than 2 graphs") as caught:
        call(torch.randn(2, 1, 5, 5))
    assert "train.compile=false" in caught.value.line


def test_parts_that_cannot_be_compiled_run_as_they_are(graphs: list[Any]) -> None:
    class Split(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x + 1
            # By value: not one graph.
            return y * 2 if float(y.sum()) > 0 else y * 3

    call = compile_step(Split(), CPU, "train.compile")
    assert call(torch.ones(2)).tolist() == [4, 4]
    assert call(-2 * torch.ones(2)).tolist() == [-3, -3]
    assert graphs


def test_a_failure_of_the_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such instruction\n" * 9)

    monkeypatch.setattr(compiled, "_BACKEND", backend)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    with pytest.raises(ModelError, match="no such instruction") as caught:
        compile_step(nn.ReLU(), CPU, "search.compile")(torch.ones(1))
    assert "\n" not in caught.value.line
    assert "search.compile=false" in caught.value.line


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingError, match=r"train\.compile: .* C\+\+ compiler: g\+\+ not found"):
        compile_step(nn.ReLU(), CPU, "train.compile")


def test_disabled_by_the_environment() -> None:
    with dynamo.patch(disable=True), pytest.raises(MissingError, match="unset TORCH_COMPILE_DISABLE"):
        compile_step(nn.ReLU(), CPU, "train.compile")


def test_cuda_needs_a_c_compiler_for_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing gcc is not a network that cannot be compiled."""
    import torch.utils._triton as triton

    monkeypatch.setattr(triton, "has_triton", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    cuda, found = torch.device("cuda"), {"clang"}
    monkeypatch.setattr(shutil, "which", lambda name: name if name in found else None)
    compiled.require_compiler(cuda, "compile")
    found.clear()
    with pytest.raises(MissingError, match="Triton needs a C compiler: gcc or clang not found"):
        compiled.require_compiler(cuda, "compile")
    monkeypatch.setenv("CC", "/opt/cc")
    compiled.require_compiler(cuda, "compile")
