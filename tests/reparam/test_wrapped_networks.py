"""Fusing networks in the forms that training produces: wrapped, converted, copied, compiled, traced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.errors import NotFusable
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.tracer import Tracer, dissolved_block
from irepdeploy.reparam.wrappers import unwrapped
from support.networks import blocks, random_network


@pytest.fixture
def net() -> nn.Module:
    return random_network("vgg6", "ireps", seed=3, stages=((4, 4), (6,)))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 1, 16, 16)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def same(net: nn.Module, plain: nn.Module, x: Tensor) -> bool:
    assert not blocks(plain)
    return ird.compare(net, plain, x).ok


def test_ddp(net: nn.Module, x: Tensor, one_process: None, tmp_path: Path) -> None:
    wrapped = nn.parallel.DistributedDataParallel(net.train())
    wrapped(torch.cat([x, x])).sum().backward()
    wrapped.eval()
    plain = ird.fuse(wrapped)
    assert same(net, plain, x)
    assert not any(name.startswith("module.") for name in plain.state_dict())
    ird.save(wrapped, tmp_path / "ddp.pt")
    assert ird.compare(net, ird.load(tmp_path / "ddp.pt"), x).max_rel_error == 0
    again = ird.insert_branches(nn.parallel.DistributedDataParallel(plain), "acnet", preserve=True)
    assert ird.compare(plain, again, x).ok


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: torch.compile(torch.optim.swa_utils.AveragedModel(net), backend="eager"),
        copy.deepcopy,
    ],
)
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module], net: nn.Module, x: Tensor) -> None:
    plain = ird.fuse(wrap(net).eval())
    assert same(net, plain, x)
    assert list(plain.state_dict()) == list(ird.fuse(net).state_dict())
    assert unwrapped(net) is net


def test_moving_average_of_weights_is_what_is_fused(net: nn.Module, x: Tensor) -> None:
    """The average, not the network that it averages, and after training steps that left gradients behind."""
    ema = torch.optim.swa_utils.AveragedModel(
        net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5), use_buffers=True
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.train()
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 1, 16, 16)).square().mean().backward()
        optimizer.step()
        ema.update_parameters(net)
    ema.eval()
    plain = ird.fuse(ema)
    assert ird.compare(ema.module, plain, x).ok
    assert not ird.compare(net.eval(), plain, x).ok


@pytest.mark.slow
def test_compiled_in_train_and_eval_mode(net: nn.Module, x: Tensor) -> None:
    twin = copy.deepcopy(net).train()
    compiled = torch.compile(net.train(), backend="aot_eager", fullgraph=True)
    x = torch.cat([x, torch.randn_like(x)])
    with torch.no_grad():
        assert torch.allclose(compiled(x), twin(x), rtol=1e-4, atol=1e-5)
    for (name, ours), theirs in zip(net.named_buffers(), twin.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5), name
    compiled.eval()
    assert same(net, ird.fuse(compiled), x)


def test_compiled_in_place(net: nn.Module, x: Tensor) -> None:
    net.compile(backend="eager")
    net(x)
    assert same(net, ird.fuse(net), x)


def test_sync_batch_norm(net: nn.Module, x: Tensor) -> None:
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
    assert not any(type(module) is nn.BatchNorm2d for module in converted.modules())
    plain = ird.fuse(converted)
    assert ird.compare(net, plain, x).ok
    ours, theirs = converted.train(), net.train()
    x = torch.cat([x, torch.randn_like(x)])
    assert torch.allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert ird.compare(theirs.eval(), ird.fuse(ours.eval()), x).ok


def test_branches_of_a_sync_batch_norm_network_are_synchronized() -> None:
    own = nn.SyncBatchNorm.convert_sync_batchnorm(ird.build("vgg6"))
    net = ird.insert_branches(own, "ireps")
    assert not any(type(module) is nn.BatchNorm2d for module in net.modules())
    assert net.get_submodule("stages.0.0.conv").fixed.bn is not None
    randomize_statistics(net.eval(), 1)
    own.load_state_dict(ird.fuse(net, keep_bn=True).state_dict(), strict=True)
    assert ird.compare(net, own.eval(), torch.randn(2, 1, 16, 16)).ok


def test_a_graph_that_keeps_blocks_whole_is_fused(net: nn.Module, x: Tensor) -> None:
    graph = torch.fx.GraphModule(net, Tracer().trace(net))
    assert same(net, ird.fuse(graph.eval()), x)


@pytest.mark.parametrize(
    "dissolve",
    [
        torch.fx.symbolic_trace,
        lambda net: torch.export.export(net, (torch.zeros(2, 1, 16, 16),)).module(),
        lambda net: torch.jit.trace(net, torch.zeros(2, 1, 16, 16)),
    ],
    ids=["fx", "export", "jit"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_graph_that_dissolved_them_is_refused(dissolve: Callable[[nn.Module], nn.Module], net: nn.Module) -> None:
    with pytest.raises(NotFusable, match="dissolved") as caught:
        ird.fuse(dissolve(net))
    assert caught.value.where == "stages.0.0.conv" and "Tracer" in str(caught.value.hint)


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, torch.fx.symbolic_trace, lambda graph: nn.Sequential(graph)],
    ids=["copy", "trace", "inside"],
)
def test_a_dissolved_block_is_found_again(again: Callable[[nn.Module], nn.Module], net: nn.Module) -> None:
    with pytest.raises(NotFusable, match="dissolved"):
        ird.fuse(again(torch.fx.symbolic_trace(net)).eval())


def test_the_mark_is_not_a_name(x: Tensor) -> None:
    class Namesake(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fixed = nn.Module()
            self.fixed.conv = nn.Conv2d(1, 1, 3, padding=1)
            self.branches = nn.ModuleDict({"conv1x1": nn.Conv2d(1, 1, 1), "0": nn.Conv2d(1, 1, 1)})

        def forward(self, x: Tensor) -> Tensor:
            return self.fixed.conv(x) + self.branches["conv1x1"](x) + self.branches["0"](x)

    model = nn.Sequential(Namesake(), nn.ReLU(), nn.Conv2d(1, 2, 3)).eval()
    assert dissolved_block(model) is dissolved_block(torch.fx.symbolic_trace(model)) is None
    net = randomize_statistics(ird.insert_branches(model, "acnet")).eval()
    assert same(net, ird.fuse(net), x)
    # The keys of a state dict are those of earlier versions.
    assert not any("irepdeploy" in name for name in net.state_dict())


def test_a_fused_network_may_be_traced(net: nn.Module, x: Tensor) -> None:
    plain = ird.fuse(net)
    assert ird.compare(net, torch.fx.symbolic_trace(plain), x).ok
    assert ird.compare(plain, ird.fuse(torch.fx.symbolic_trace(plain)), x).ok


def test_hooks_of_a_convolution_stay_with_its_block_in_a_checkpoint(tmp_path: Path) -> None:
    def plain() -> nn.Module:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3))
        net[0].register_forward_hook(lambda module, args, output: output * 2)
        return net

    net = randomize_statistics(ird.insert_branches(plain()), seed=2).eval()
    ird.save(net, tmp_path / "a.pt")
    again, x = ird.load(tmp_path / "a.pt", model=plain), torch.randn(2, 1, 8, 8)
    assert ird.compare(net, again, x).max_rel_error == 0
    assert same(again, ird.fuse(again), x)
