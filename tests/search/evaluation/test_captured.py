from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from irepdeploy.errors import RunError
from irepdeploy.search.evaluation.captured import CapturedForward


class Recorded(nn.Module):
    """A network that a `FakeGraph` can run again on the tensors that it was captured with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3).requires_grad_(False)
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x).mean((2, 3))
        self.calls.append((x, y))
        return y


class FakeGraph:
    """Behaves like torch.cuda.CUDAGraph: runs again on the same tensors with their current values."""

    made: list[FakeGraph]
    network: Recorded

    def __init__(self) -> None:
        self.replays = 0
        self.captured: tuple[Tensor, Tensor] | None = None
        FakeGraph.made.append(self)

    def replay(self) -> None:
        assert self.captured is not None
        self.replays += 1
        images, logits = self.captured
        logits.copy_(self.network.conv(images).mean((2, 3)))

    def pool(self) -> tuple[int, int]:
        return (1, 2)


class FakeStream:
    def __init__(self, device: Any = None) -> None:
        self.device = device

    def wait_stream(self, other: FakeStream) -> None:
        pass


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    torch.manual_seed(0)
    made = Recorded().eval()
    FakeGraph.made, FakeGraph.network = [], made

    streams: set[int] = set()

    @contextmanager
    def graph(captured: FakeGraph, pool: Any = None, stream: Any = None) -> Iterator[None]:
        assert pool == (None if len(FakeGraph.made) == 1 else (1, 2))
        # Without one torch takes that of the first capture, of whatever device; graphs of one pool need the same.
        assert stream is not None and stream.device == torch.device("cpu")
        streams.add(id(stream))
        assert len(streams) == 1
        # Warmed up before, since a capture must not include a first call.
        assert len(made.calls) > 0
        yield
        captured.captured = made.calls[-1]

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return made


def test_a_graph_a_shape_is_replayed_with_new_images_and_weights(network: Recorded) -> None:
    forward = CapturedForward(network)
    for count, value in ((4, 1.0), (4, 2.0), (3, 3.0), (4, 4.0)):
        with torch.no_grad():
            network.conv.weight.fill_(value)
        images = torch.randn(count, 1, 5, 5)
        found = forward(images).clone()
        assert torch.allclose(found, network.conv(images).mean((2, 3)), atol=1e-6)
    assert [graph.replays for graph in FakeGraph.made] == [3, 1]


def test_the_callers_images_are_not_written_and_the_layout_is_kept(network: Recorded) -> None:
    forward = CapturedForward(network)
    images = torch.randn(2, 1, 5, 5).expand(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    network.conv = nn.Conv2d(3, 3, 3).requires_grad_(False)
    before = images.clone()
    forward(images)
    forward(torch.randn_like(images))
    assert torch.equal(images, before)
    captured = FakeGraph.made[0].captured
    assert captured is not None
    assert captured[0].is_contiguous(memory_format=torch.channels_last)
    assert captured[0].data_ptr() != images.data_ptr()


def test_what_cannot_be_captured_is_an_error(network: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with pytest.raises(RunError, match=r"^Recorded: .*not permitted when stream is capturing \(.*graph=False"):
        CapturedForward(network)(torch.zeros(1, 1, 5, 5))


def test_running_out_of_memory_stays_what_it_is(network: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with pytest.raises(torch.OutOfMemoryError):
        CapturedForward(network)(torch.zeros(1, 1, 5, 5))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    torch.manual_seed(0)
    real = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).cuda().eval()
    forward = CapturedForward(real)
    with torch.inference_mode():
        for count in (4, 4, 2, 4):
            for parameter in real.parameters():
                parameter.copy_(torch.randn_like(parameter))
            images = torch.randn(count, 3, 8, 8, device="cuda")
            assert torch.allclose(forward(images), real(images), rtol=1e-2, atol=1e-2)
