"""A merged step is the exact one where statistics are frozen, or where the whole batch is the sample."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.errors import InputError, ModelError
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.branches import BRANCHES, Branch, possible_branches
from irepdeploy.reparam.geometry import Geometry
from irepdeploy.reparam.sample import Sample, Statistics, sample_size
from irepdeploy.testing.strategies import geometries, randomize_block
from support.processes import run_ranks

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
EVERYTHING = 10**9


def norms(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, NORMS))


def made(
    geometry: Geometry, seed: int, *, frozen: bool = False, scaled: bool = True, bn: bool = True, bias: bool = False
) -> RepBlock:
    """Make a block in train mode with every possible branch, all values random, in float64."""
    names = possible_branches(geometry, tuple(BRANCHES))
    norm = nn.BatchNorm2d(geometry.out_channels) if bn else None
    block = randomize_block(RepBlock(geometry.conv(bias=bias), norm, names, scaled=scaled), seed).double().train()
    if frozen:
        for each in norms(block):
            each.eval()
    return block


def merged(block: RepBlock, sample: int | None = EVERYTHING) -> RepBlock:
    twin = copy.deepcopy(block)
    twin.step, twin.sample = "merged", sample
    return twin


def branch_by_branch(block: RepBlock) -> RepBlock:
    """Copy a block so that it computes every branch although its statistics are frozen."""
    twin = copy.deepcopy(block)
    for part in twin.fixed.modules():
        part.register_forward_hook(lambda *_: None)
    return twin


def batch(geometry: Geometry, seed: int, images: int = 3, extra: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sides = ((geometry.kernel - 1) * dilation + extra for dilation in geometry.dilation)
    return torch.randn(images, geometry.in_channels, *sides, generator=generator, dtype=torch.float64)


def passed(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return output, gradients and statistics of a forward and a backward pass."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = model(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(out.dtype)
    (out * weights).sum().backward()
    found = {"out": out.detach(), "x": x.grad}
    found |= {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return found | {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def same(theirs: dict[str, Tensor], ours: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert theirs.keys() == ours.keys()
    # A gradient that is zero except for rounding is as inexact as others of its kind.
    largest = max(float(value.abs().max()) for value in theirs.values())
    for name, value in theirs.items():
        assert value.shape == ours[name].shape, name
        within = tolerance * (largest if value.is_floating_point() else 0)
        assert float((value.double() - ours[name].double()).abs().max()) <= within, name


@given(geometry=geometries(), seed=st.integers(0, 2**31), scaled=st.booleans(), bn=st.booleans(), bias=st.booleans())
def test_merged_with_frozen_statistics_is_exact(
    geometry: Geometry, seed: int, scaled: bool, bn: bool, bias: bool
) -> None:
    block = made(geometry, seed, frozen=True, scaled=scaled, bn=bn, bias=bias)
    x = batch(geometry, seed)
    expected = passed(branch_by_branch(block), x)
    same(expected, passed(merged(block), x), 1e-12)


@given(geometry=geometries(), seed=st.integers(0, 2**31), scaled=st.booleans(), bn=st.booleans(), bias=st.booleans())
def test_a_sample_of_all_positions_is_the_batch(
    geometry: Geometry, seed: int, scaled: bool, bn: bool, bias: bool
) -> None:
    block = made(geometry, seed, scaled=scaled, bn=bn, bias=bias)
    x = batch(geometry, seed)
    same(passed(copy.deepcopy(block), x), passed(merged(block), x))


def convolutions(model: nn.Module, x: Tensor) -> int:
    """Count the convolutions of a forward pass."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        model(x)
    return sum(event.count for event in profile.key_averages() if event.key == "aten::conv2d")


def test_frozen_statistics_are_merged_by_themselves() -> None:
    block, x = made(Geometry(4, 4), 1, frozen=True), batch(Geometry(4, 4), 1)
    assert convolutions(block, x) == 1
    same(passed(branch_by_branch(block), x), passed(block, x), 1e-12)
    # In eval mode the branches run, so that a fuse is compared with something else than itself.
    assert convolutions(block.eval(), x) > 9
    block.train()
    next(norms(block.fixed)).eval()
    assert convolutions(block, x) > 9


@pytest.mark.parametrize("keep", ["drop_path", "hooks", "backward_hooks"])
def test_what_a_merged_step_would_change_is_not_merged_by_itself(keep: str) -> None:
    block, x = made(Geometry(4, 4), 1), batch(Geometry(4, 4), 1)
    for norm in norms(block):
        norm.eval()
    seen = []
    if keep == "drop_path":
        block.drop_path = 0.5
    elif keep == "hooks":
        block.branches["conv1x1"].register_forward_hook(lambda *_: seen.append(1))
    else:
        block.fixed.conv.register_full_backward_hook(lambda *_: seen.append(1))
    assert convolutions(block, x) > 9
    block(x.requires_grad_()).sum().backward()
    assert seen == {"drop_path": [], "hooks": [1, 1], "backward_hooks": [1]}[keep]


def test_statistics_may_be_partly_frozen() -> None:
    block, x = made(Geometry(4, 6), 3), batch(Geometry(4, 6), 3)
    for norm in [*norms(block)][::2]:
        norm.eval()
    same(passed(copy.deepcopy(block), x), passed(merged(block), x))


@pytest.mark.parametrize("frozen", [True, False])
def test_inactive_branches_take_no_part(frozen: bool) -> None:
    block, x = made(Geometry(4, 4), 4, frozen=frozen), batch(Geometry(4, 4), 4)
    for active in (["conv1x1_3x3", "identity"], []):
        block.active = active
        same(passed(branch_by_branch(block), x), passed(merged(block), x))


def test_channels_last_and_float32() -> None:
    geometry = Geometry(8, 8)
    for frozen in (True, False):
        block = made(geometry, 5, frozen=frozen)
        x = batch(geometry, 5).float().contiguous(memory_format=torch.channels_last)
        expected = passed(branch_by_branch(block), x.double())
        ours = merged(block).float().to(memory_format=torch.channels_last)
        found = passed(ours, x)
        assert found["out"].is_contiguous(memory_format=torch.channels_last)
        assert found["x"].is_contiguous(memory_format=torch.channels_last)
        same(expected, found, 1e-5)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("kind", ["autocast", "half"])
def test_bfloat16_is_as_close_as_the_exact_step(frozen: bool, kind: str) -> None:
    geometry = Geometry(8, 8)
    block, x = made(geometry, 6, frozen=frozen), batch(geometry, 6, images=8)
    with torch.no_grad():
        expected = branch_by_branch(block)(x)
        theirs, ours = branch_by_branch(block).float(), merged(block).float()
        x = x.bfloat16()
        if kind == "half":
            theirs, ours = theirs.bfloat16(), ours.bfloat16()
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            outputs = theirs(x), ours(x)
    assert outputs[1].dtype == torch.bfloat16
    errors = [float((out.double() - expected).abs().max() / expected.abs().max()) for out in outputs]
    assert errors[1] <= max(2 * errors[0], 1e-2)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        out = ours(x)
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in ours.parameters())


class _OfYourOwn(Branch):
    """A branch that knows its kernel, but not how to be merged."""

    name = "own"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.inner = BRANCHES["conv1x1"](geometry)

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        return self.inner(x, factor)

    def equivalent_taps(self) -> tuple[Tensor, Tensor]:
        kernel, bias = self.inner.equivalent()
        return kernel, bias


class _Row(Branch):
    """A branch whose kernel has equal rows, and is given as one."""

    name = "row"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        shape = (geometry.out_channels, geometry.in_channels // geometry.groups, 1, geometry.kernel)
        self.weight, self.bn = nn.Parameter(torch.empty(shape)), nn.BatchNorm2d(geometry.out_channels)

    def kernel(self) -> Tensor:
        return self.weight

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        size, shape = self.geometry.kernel, self.geometry
        kernel = self.kernel().expand(-1, -1, size, size)
        y = self.bn(nn.functional.conv2d(x, kernel, None, shape.stride, shape.padding, shape.dilation, shape.groups))
        return y if factor is None else y * factor

    def linear(self, statistics: Statistics) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        return self.kernel(), None, *statistics.of_taps(self.bn, self.kernel(), "all", "all", None)


class _Column(_Row):
    name = "column"

    def kernel(self) -> Tensor:
        return self.weight.transpose(2, 3)


@pytest.mark.parametrize("kind", [_Row, _Column])
def test_equal_taps_of_one_side_are_given_as_one(kind: type[Branch], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BRANCHES, kind.name, kind)
    geometry = Geometry(4, 4, groups=2, kernel=5, padding=(2, 2))
    block, x = made(geometry, 17), batch(geometry, 17)
    block.active = [kind.name, "conv1x1"]
    same(passed(copy.deepcopy(block), x), passed(merged(block), x))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_branch_without_linear_runs_by_itself(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BRANCHES, "own", _OfYourOwn)
    geometry = Geometry(4, 4)
    block, x = made(geometry, 7, frozen=frozen), batch(geometry, 7)
    assert "own" in block.branches
    assert convolutions(merged(block), x) == 2
    same(passed(branch_by_branch(block), x), passed(merged(block), x))


def test_drop_path_drops_a_branch_for_a_step() -> None:
    block, x = made(Geometry(4, 4), 8, frozen=True), batch(Geometry(4, 4), 8)
    block.active = ["conv1x3", "identity"]
    ours = merged(block)
    ours.drop_path = 0.25
    fixed = block.fixed(x)
    parts = [block.branches[name](x, block.factor(name)) / 0.75 for name in block.active]
    sums = {(a, b): a * parts[0] + b * parts[1] for a in (0, 1) for b in (0, 1)}
    torch.manual_seed(0)
    seen = []
    for _ in range(60):
        left = ours(x) - fixed
        [kept] = [kept for kept, value in sums.items() if torch.allclose(left, value, atol=1e-9)]
        seen.append(kept)
    assert all(35 < count < 57 for count in torch.tensor(seen).sum(0).tolist())


def test_every_position_is_equally_likely_and_running_statistics_are_right_in_expectation() -> None:
    geometry = Geometry(2, 2)
    block, x = made(geometry, 9), batch(geometry, 9, images=4, extra=3)
    block.active = ["conv1x1", "identity", "dil2x1"]
    for norm in norms(block):
        norm.momentum = 1.0
    exact = passed(copy.deepcopy(block), x)
    torch.manual_seed(0)
    ours, sums = merged(block, 24), dict[str, Tensor]()
    with torch.no_grad():
        rounds = 400
        for _ in range(rounds):
            ours(x)
            for name, buffer in ours.named_buffers():
                sums[name] = sums.get(name, 0) + buffer.double() / rounds
    for name, value in sums.items():
        if "running" in name and ("fixed" in name or name.split(".")[1] in block.active):
            deviation = exact[name.replace("mean", "var")].sqrt() if "mean" in name else exact[name]
            assert float(((value - exact[name]) / deviation).abs().max()) < 0.05, name


def test_a_part_of_the_positions_is_drawn_from_all_of_them() -> None:
    x = torch.arange(3 * 5 * 7.0).reshape(3, 1, 5, 7)
    seen, counts = set[float](), list[int]()
    for seed in range(60):
        torch.manual_seed(seed)
        sample = Sample(x, Geometry(1, 1), 15, [("middle", "middle")])
        drawn = sample._patches["middle", "middle"].flatten().tolist()
        # One of each fifteenth of the batch.
        assert [int(value) // 7 for value in drawn] == list(range(15))
        seen.update(drawn)
        counts.append(len(set(drawn)))
    assert counts == [15] * 60 and len(seen) == 105


def test_the_mean_of_the_sum_does_not_depend_on_the_sample() -> None:
    block = made(Geometry(4, 6), 3)
    generator = torch.Generator().manual_seed(0)
    # Few positions are far from zero, so a sample may contain none of them.
    x = torch.randn(8, 4, 24, 24, generator=generator, dtype=torch.float64)
    x *= torch.rand(8, 1, 24, 24, generator=generator) < 0.02
    exact = copy.deepcopy(block)(x).detach()
    torch.manual_seed(0)
    draws = [merged(block, 256)(x).detach() for _ in range(20)]
    for out in draws:
        assert torch.allclose(out.mean((0, 2, 3)), exact.mean((0, 2, 3)), atol=1e-9)


def test_few_positions_take_the_exact_step_and_draw_nothing() -> None:
    assert [sample_size(positions, 512) for positions in (100, 400, 10**6)] == [100, 256, 256]
    # Narrow layers have larger samples.
    assert [sample_size(4096, channels) for channels in (8, 32, 64, 128, 256, 512)] == [2048, 2048, 1024, 512, 256, 256]
    geometry = Geometry(4, 4)
    block, x = made(geometry, 10), batch(geometry, 10)
    before = torch.get_rng_state()
    out = merged(block, None)(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(out, copy.deepcopy(block)(x))


@pytest.mark.parametrize("sample", [None, EVERYTHING])
def test_an_empty_batch_changes_no_statistics(sample: int | None) -> None:
    block, x = made(Geometry(4, 4), 18), torch.empty(0, 4, 5, 5, dtype=torch.float64)
    for model in (copy.deepcopy(block), merged(block, sample)):
        found = passed(model, x)
        assert found.pop("out").shape == found.pop("x").shape == x.shape
        before = dict(block.named_buffers())
        assert all(torch.equal(found[name], before[name]) for name in before if not name.endswith("tracked"))
        assert all(int(found[name]) == 1 for name in before if name.endswith("tracked"))
        assert all(not parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("shape", "frozen"),
    # One value is enough for frozen statistics.
    [((1, 4, 3, 3), False), *itertools.product([(3, 4, 2, 2), (3, 4, 2, 5), (4, 5, 5)], [True, False])],
)
def test_wrong_shapes_get_the_error_of_torch_and_change_nothing(shape: tuple[int, ...], frozen: bool) -> None:
    block, x = made(Geometry(4, 4, padding=(0, 0)), 19, frozen=frozen), torch.randn(shape, dtype=torch.float64)
    texts, models = [], (branch_by_branch(block), merged(block, 64))
    for model in models:
        with pytest.raises((ValueError, RuntimeError)) as raised:
            model(x)
        texts.append(str(raised.value))
    assert texts[0] == texts[1]
    for name, buffer in models[0].named_buffers():
        assert torch.equal(buffer, dict(models[1].named_buffers())[name]), name


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_a_map_of_another_dtype_is_refused(dtype: torch.dtype, frozen: bool) -> None:
    block = merged(made(Geometry(4, 4), 20, frozen=frozen))
    with pytest.raises(RuntimeError, match="type"):
        block((10 * batch(Geometry(4, 4), 20)).to(dtype))


def test_running_statistics_may_be_switched_off() -> None:
    block, x = made(Geometry(4, 4), 21), batch(Geometry(4, 4), 21)
    before = {name: buffer.clone() for name, buffer in block.named_buffers()}
    for norm in norms(block):
        norm.track_running_stats = False
    expected, found = passed(copy.deepcopy(block), x), passed(merged(block), x)
    same(expected, found)
    assert all(
        torch.equal(buffer, found[name]) and torch.equal(buffer, expected[name]) for name, buffer in before.items()
    )


def test_the_same_seed_draws_the_same_sample() -> None:
    block, x = made(Geometry(4, 4), 11), batch(Geometry(4, 4), 11, images=8, extra=9)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(passed(merged(block, 64), x))
    same(found[0], found[1], 0.0)
    assert not torch.equal(found[0]["out"], found[2]["out"])


def test_few_positions_with_frozen_statistics_are_not_worth_merging() -> None:
    geometry = Geometry(12, 12)
    block = made(geometry, 14, frozen=True)
    assert convolutions(block, torch.randn(1, 12, 3, 3, dtype=torch.float64)) > 9
    assert convolutions(block, torch.randn(1, 12, 3, 4, dtype=torch.float64)) == 1


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_frozen_statistics_keep_what_torch_can_do() -> None:
    """Second derivatives, torch.func, forward mode and tracing work as they do branch by branch."""
    geometry = Geometry(2, 2)
    block, x = made(geometry, 15, frozen=True), batch(geometry, 15, images=2, extra=1)
    found = []
    for model in (block, branch_by_branch(block)):
        mine = x.clone().requires_grad_()
        [slope] = torch.autograd.grad(model(mine).pow(3).sum(), mine, create_graph=True)
        slope.square().sum().backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()} | {"x": mine.grad})
        model.zero_grad()
    same(found[1], found[0], 1e-10)
    parameters = {name: parameter.detach() for name, parameter in block.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(block, parameters, image[None]).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    summed = torch.func.grad(lambda values: sum(loss(values, image) for image in x))(parameters)
    same(summed, {name: value.sum(0) for name, value in each.items()}, 1e-10)
    for name in ("alpha.conv1x1", "fixed.conv.weight"):
        value = parameters[name]
        slopes = []
        for model in (branch_by_branch(block), block):

            def squares(value: Tensor, model: nn.Module = model, name: str = name) -> Tensor:
                return torch.func.functional_call(model, {name: value}, (x,)).square()

            slopes.append(torch.func.jacfwd(squares)(value))
        assert float((slopes[0] - slopes[1]).detach().abs().max()) < 1e-9, name
    # torch cannot trace its identity.
    block.active = [name for name in block.active if name != "idconv1x1_3x3"]
    traced = torch.fx.symbolic_trace(block)
    assert float((traced(x) - block(x)).detach().abs().max()) < 1e-10


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def test_shapes_alone_go_through_a_merged_step() -> None:
    block = merged(made(Geometry(4, 4), 16)).to("meta")
    assert block(torch.empty(5, 4, 12, 12, dtype=torch.float64, device="meta")).shape == (5, 4, 12, 12)


def test_set_step() -> None:
    inserted = ird.insert_branches(net(), step="merged")
    blocks = [module for module in inserted.modules() if isinstance(module, RepBlock)]
    assert [block.step for block in blocks] == ["merged", "merged"]
    assert ird.set_step(inserted, "exact") is inserted and blocks[0].step == "exact"
    ird.set_step(inserted, "merged", sample=64)
    assert [block.sample for block in blocks] == [64, 64]
    x = torch.randn(8, 3, 9, 9)
    inserted(x).sum().backward()
    assert ird.compare(inserted.eval(), ird.fuse(inserted), x).ok


def test_set_step_refuses() -> None:
    inserted = ird.insert_branches(net())
    for wrong in ("fast", "Merged", None):
        with pytest.raises(InputError, match="expected exact or merged, got"):
            ird.set_step(inserted, wrong)
    for sample in (0, 1, -5, 2.5, True, "64"):
        with pytest.raises(InputError, match="sample: expected a number of at least 2"):
            ird.set_step(inserted, "merged", sample=sample)
    with pytest.raises(InputError, match="expected exact or merged"):
        ird.insert_branches(net(), step="fast")
    with pytest.raises(ModelError, match="no branches"):
        ird.set_step(net(), "merged")
    inserted[0].branches["conv1x1"].bn.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match=r"^0\.branches\.conv1x1\.bn: the hooks of this module would not run"):
        ird.set_step(inserted, "merged")
    assert inserted[3].step == "exact"
    with pytest.raises(ModelError, match=r"expected a torch\.nn\.Module, got str"):
        ird.set_step("net", "merged")
    assert ird.set_step(inserted, "exact") is inserted


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_torch_compile(frozen: bool) -> None:
    block, x = made(Geometry(4, 4, groups=2), 12, frozen=frozen), batch(Geometry(4, 4, groups=2), 12)
    ours = merged(block)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    expected = passed(branch_by_branch(block), x)
    found = passed(compiled, x)
    same(expected, {name.removeprefix("_orig_mod."): value for name, value in found.items()})


# Each rank has a part of the batch; together they are one process with all of it.
PROGRAM = """
import copy
import torch
from torch import distributed, nn
distributed.init_process_group("gloo")
torch.set_num_threads(1)
rank, folder = distributed.get_rank(), "FOLDER"
block, x, weights = torch.load(f"{folder}/whole.pt", weights_only=False)
mine = slice(0, 3) if rank == 0 else slice(3, 5)
# On GPUs, DistributedDataParallel takes a SyncBatchNorm; here it gets statistics of each rank alone.
alone = nn.parallel.DistributedDataParallel(copy.deepcopy(block))
(alone(x[mine]) * weights[mine]).sum().backward()
apart = {name: parameter.grad for name, parameter in alone.module.named_parameters()}
block = nn.SyncBatchNorm.convert_sync_batchnorm(block)
out = block(x[mine])
(out * weights[mine]).sum().backward()
grads = {name: parameter.grad for name, parameter in block.named_parameters()}
for grad in grads.values():
    distributed.all_reduce(grad)
torch.save((out.detach(), grads, dict(block.named_buffers()), apart), f"{folder}/{rank}.pt")
# A rank may have no part of a batch at all.
block.zero_grad()
mine = slice(0, 5) if rank == 0 else slice(5, 5)
again = block(x[mine])
(again * weights[mine]).sum().backward()
theirs = {name: parameter.grad for name, parameter in block.named_parameters()}
for name, grad in theirs.items():
    distributed.all_reduce(grad)
    assert torch.allclose(grad, grads[name], atol=1e-9), name
assert all(bool(buffer.isfinite().all()) for buffer in block.buffers())
distributed.barrier()
distributed.destroy_process_group()
"""


def test_synchronized_statistics_of_two_ranks_are_those_of_one(tmp_path: Path) -> None:
    geometry = Geometry(4, 4)
    block, x = merged(made(geometry, 13)), batch(geometry, 13, images=5)
    weights = torch.randn(5, 4, *x.shape[2:], dtype=torch.float64)
    torch.save((block, x, weights), tmp_path / "whole.pt")
    ends = run_ranks(PROGRAM.replace("FOLDER", str(tmp_path)), 2)
    assert [end.returncode for end in ends] == [0, 0], ends[0].stderr
    (first, grads, buffers, apart), (second, _, _, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    out = block(x)
    (out * weights).sum().backward()
    found = {"out": torch.cat([first, second]), **grads, **{f"{name}'": value for name, value in buffers.items()}}
    expected = {"out": out.detach(), **{name: parameter.grad for name, parameter in block.named_parameters()}}
    same({**expected, **{f"{name}'": buffer for name, buffer in block.named_buffers()}}, found)
    assert all(torch.equal(apart[name], others[name]) for name in grads)
