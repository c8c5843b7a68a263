from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError, MissingError, ModelError, RunError
from irepdeploy.runtime.torch_compile_runner import TorchCompileRunner
from irepdeploy.testing.runner_contract import RunnerCase, RunnerContract

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
FEEDS = {"input": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("float32")}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Compile into an empty cache, so that earlier results are not used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


class Small(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x)).mean((2, 3))


class Broken(Small):
    """A network with control flow by value, which does not fit in one graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y if y.sum().item() > 0 else -y


def runner_of(
    net: nn.Module, shape: tuple[int | None, ...] = (None, 3, 8, 8), **settings: object
) -> TorchCompileRunner:
    return TorchCompileRunner(net.eval(), [TensorSpec("input", shape)], ["logits"], threads=1, **settings)


@pytest.mark.slow  # a first compilation takes 20 s
@needs_compiler
class TestTorchCompileRunner(RunnerContract):
    @pytest.fixture
    def case(self) -> RunnerCase:
        net = Small().eval()
        with torch.inference_mode():
            expected = net(torch.from_numpy(FEEDS["input"])).numpy()
        feeds = {name: array.copy() for name, array in FEEDS.items()}
        return RunnerCase(runner_of(net), feeds, {"logits": expected})


@pytest.mark.slow
@needs_compiler
def test_runs_what_was_compiled_and_not_the_module() -> None:
    from torch._dynamo.utils import counters

    calls = []

    class Counted(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.compiler.is_compiling():
                calls.append(1)
            return super().forward(x)

    with runner_of(Counted()) as runner:
        before = counters["stats"]["unique_graphs"]
        bound = runner.bind(FEEDS)
        assert counters["stats"]["unique_graphs"] == before + 1
        assert len(calls) == 1
        bound()
        bound()
        assert len(calls) == 1
        assert "whole graph" in runner.describe()["compile"]


@pytest.mark.slow
@needs_compiler
def test_every_shape_and_every_network_has_its_own_code() -> None:
    batches = [{"input": np.repeat(FEEDS["input"][:1], batch, 0)} for batch in (1, 2)]
    with runner_of(Small(0)) as one, runner_of(Small(1)) as other:
        for feeds in batches:
            assert one.infer(feeds)["logits"].shape == (len(feeds["input"]), 4)
            assert not np.allclose(one.infer(feeds)["logits"], other.infer(feeds)["logits"])
        assert len(one._compiled) == len(other._compiled) == 2
        functions = [*one._compiled.values(), *other._compiled.values()]
        # While the cache holds entries for a code object, torch searches all of them at every call.
        assert len({id(function.__wrapped__.__code__) for function in functions}) == 4


@pytest.mark.slow
@needs_compiler
def test_a_network_that_no_graph_holds_is_refused() -> None:
    with (
        runner_of(Broken()) as runner,
        pytest.raises(ModelError, match="cannot compile this network as a whole") as caught,
    ):
        runner.bind(FEEDS)
    assert "--runner torch" in caught.value.hint


@pytest.mark.slow
@needs_compiler
def test_a_network_that_fails_by_itself() -> None:
    with runner_of(Small(), (None, 5, 8, 8)) as runner, pytest.raises(ModelError) as caught:
        runner.infer({"input": np.zeros((1, 5, 8, 8), "float32")})
    assert "cannot run on this input" in caught.value.what
    assert "channels" in caught.value.what


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingError, match=r"needs a C\+\+ compiler") as caught, runner_of(Small()):
        pass
    assert "apt-get install" in caught.value.hint


def test_switched_off() -> None:
    import torch._dynamo.config

    # Not by monkeypatch: undone, it leaves the setting deleted for whoever compiles next.
    off = torch._dynamo.config.patch(disable=True)
    with off, pytest.raises(MissingError, match="disabled by the environment"), runner_of(Small()):
        pass


def test_train_mode_and_threads_are_given_back() -> None:
    threads = torch.get_num_threads()
    runner = TorchCompileRunner(Small().train(), [TensorSpec("input", (1, 3, 8, 8))], ["logits"], threads=threads + 1)
    with pytest.raises(InputError, match="train mode"), runner:
        pass
    assert torch.get_num_threads() == threads


def test_running_out_of_memory_is_not_a_network_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    module = "irepdeploy.runtime.torch_compile_runner"
    monkeypatch.setattr(f"{module}.require_compiler", lambda device, where: None)
    monkeypatch.setattr(f"{module}.compiled", lambda *given, **how: full)
    with (
        TorchCompileRunner(Small().eval(), [TensorSpec("input", (None, 3, 8, 8))], ["y"]) as runner,
        pytest.raises(RunError, match="out of memory"),
    ):
        runner.infer(FEEDS)
