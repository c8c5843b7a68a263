from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError, MissingError, ModelError, RunError
from irepdeploy.runtime.torch_runner import TorchRunner
from irepdeploy.testing.runner_contract import RunnerCase, RunnerContract

SPEC = TensorSpec("input", (None, 3, 8, 8))
FEEDS = {"input": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("float32")}


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    ).eval()


def case_of(net: nn.Module, **settings) -> RunnerCase:
    with torch.no_grad():
        expected = net(torch.from_numpy(FEEDS["input"])).numpy()
    feeds = {"input": FEEDS["input"].copy()}
    return RunnerCase(TorchRunner(net, [SPEC], ["logits"], **settings), feeds, {"logits": expected}, rtol=1e-5)


class TestTorchRunner(RunnerContract):
    @pytest.fixture
    def case(self) -> RunnerCase:
        return case_of(small_net(), threads=1)


class TestTorchRunnerChannelsLast(RunnerContract):
    @pytest.fixture
    def case(self) -> RunnerCase:
        return case_of(small_net(), channels_last=True)


def test_refuses_train_mode_even_of_one_layer() -> None:
    net = small_net()
    net[1].train()
    with pytest.raises(InputError, match="train mode") as caught, TorchRunner(net, [SPEC], ["logits"]):
        pass
    assert "eval()" in caught.value.hint


def test_running_out_of_memory_while_a_call_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph or a compiled network needs more of it than the run before."""

    def full(*given: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(TorchRunner, "_closed", full)
    with TorchRunner(small_net(), [SPEC], ["logits"]) as runner, pytest.raises(RunError, match="out of memory: CUDA"):
        runner.bind(FEEDS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there() -> None:
    with pytest.raises(MissingError, match="cuda"), TorchRunner(small_net(), [SPEC], ["logits"], device="cuda"):
        pass


@pytest.mark.parametrize("device", ["no-such-device", "meta"])
def test_device_that_is_none(device: str) -> None:
    with pytest.raises(InputError, match=device), TorchRunner(small_net(), [SPEC], ["logits"], device=device):
        pass


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_threads_that_are_none(threads: object) -> None:
    with pytest.raises(InputError, match="threads"), TorchRunner(small_net(), [SPEC], ["logits"], threads=threads):
        pass


def test_threads_are_set_and_given_back() -> None:
    before = torch.get_num_threads()
    with TorchRunner(small_net(), [SPEC], ["logits"], threads=before + 1) as runner:
        assert runner.describe()["threads"] == torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_runners_with_different_threads_are_not_run_together() -> None:
    before = torch.get_num_threads()
    one = TorchRunner(small_net(), [SPEC], ["logits"], threads=before)
    two = TorchRunner(small_net(), [SPEC], ["logits"], threads=before + 1)
    with one, two:
        two.bind(FEEDS)
        with pytest.raises(InputError, match="threads"):
            one.bind(FEEDS)


def test_the_callers_module_is_not_changed() -> None:
    net = small_net()
    weight = net[0].weight
    with TorchRunner(net, [SPEC], ["logits"], channels_last=True) as runner:
        runner.infer(FEEDS)
        assert runner.describe()["channels_last"] is True
    assert net[0].weight is weight
    assert weight.is_contiguous()
    assert weight.requires_grad


def test_precision_is_that_of_the_weights() -> None:
    net = small_net()
    for dtype, word in ((torch.float32, "fp32"), (torch.float64, "fp64"), (torch.bfloat16, "bf16")):
        with TorchRunner(net.to(dtype), [SPEC], ["logits"]) as runner:
            assert runner.describe()["precision"] == word
    net[0].half()
    with TorchRunner(net, [SPEC], ["logits"]) as runner:
        assert runner.describe()["precision"] == "mixed"


class Named(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": x + y, "difference": x - y}


def test_several_inputs_and_named_outputs() -> None:
    specs = [TensorSpec("x", (2,)), TensorSpec("y", (2,))]
    feeds = {"y": np.array([1, 2], "float32"), "x": np.array([5, 5], "float32")}
    with TorchRunner(Named().eval(), specs, ["difference", "sum"]) as runner:
        found = runner.infer(feeds)
        assert {name: values.tolist() for name, values in found.items()} == {"difference": [4, 3], "sum": [6, 7]}
        with TorchRunner(Named().eval(), specs, ["sum"]) as chosen:
            assert list(chosen.infer(feeds)) == ["sum"]


@pytest.mark.parametrize(("net", "names"), [(Named(), ["sum", "product"]), (nn.Bilinear(2, 2, 1), ["one", "two"])])
def test_outputs_that_the_network_does_not_return(net: nn.Module, names: list[str]) -> None:
    specs = [TensorSpec("x", (2,)), TensorSpec("y", (2,))]
    feeds = {spec.name: np.ones(2, "float32") for spec in specs}
    with (
        TorchRunner(net.eval(), specs, names) as runner,
        pytest.raises(ModelError, match="expected the network to return tensors"),
    ):
        runner.infer(feeds)


def test_an_output_that_is_the_input_does_not_alias_it() -> None:
    feeds = {"input": FEEDS["input"].copy()}
    with TorchRunner(nn.Identity().eval(), [SPEC], ["same"]) as runner:
        found = runner.infer(feeds)["same"]
    found[...] = 0
    np.testing.assert_array_equal(feeds["input"], FEEDS["input"])


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value


def test_an_output_that_is_a_buffer_does_not_alias_it() -> None:
    net = Constant().eval()
    with TorchRunner(net, [SPEC], ["value"]) as runner:
        runner.infer(FEEDS)["value"][...] = 7
    assert net.value.tolist() == [1, 1, 1]


def test_input_that_the_network_cannot_take_is_one_line() -> None:
    net = nn.Linear(7, 2).eval()
    with TorchRunner(net, [SPEC], ["logits"]) as runner:
        for use in (runner.infer, runner.bind):
            with pytest.raises(ModelError, match="cannot run on this input") as caught:
                use(FEEDS)
            assert "\n" not in caught.value.line
