from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.errors import InputError
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.search.execution.loop import adam, optimizer_of
from irepdeploy.search.execution.ranks import Ranks
from irepdeploy.search.supernet.builders import build_supernet
from irepdeploy.search.supernet.space import Bits
from irepdeploy.search.supernet.supernet import Supernet
from support.foreign import Restless
from support.processes import run_ranks
from support.tiny import Tiny


@pytest.fixture
def supernet(tiny: Tiny) -> Supernet:
    """In float64 and train mode, with random statistics, alpha and beta."""
    made = build_supernet(tiny())
    made.model.double().train()
    randomize_statistics(made.model, seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in made.arch_parameters():
            parameter.normal_()
    return made


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(6, 1, 16, 16, dtype=torch.float64, generator=generator)
    return images, torch.arange(6)


def candidates(supernet: Supernet, count: int, seed: int = 0, share: float = 0.4) -> list[Bits]:
    random = np.random.default_rng(seed)
    return [random.random(supernet.space.size) < share for _ in range(count)]


def alone(supernet: Supernet, bits: Bits | None, images: Tensor, labels: Tensor) -> tuple[nn.Module, float]:
    """A copy of the network after one forward and backward pass of one subnet."""
    model = copy.deepcopy(supernet.model)
    for row, layer in enumerate(supernet.space.layers):
        if bits is not None:
            here = [i for i, (of, _) in enumerate(supernet.space.positions) if of == row and bits[i]]
            model.get_submodule(layer).active = [supernet.space.branches[supernet.space.positions[i][1]] for i in here]
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return model, float(loss.detach())


def test_batch_normalization_of_all_processes_is_for_divided_batches(batch: tuple[Tensor, Tensor]) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    synced = Supernet(nn.SyncBatchNorm.convert_sync_batchnorm(net), "ireps")
    two = Ranks(0, 2, torch.device("cpu"))
    with pytest.raises(InputError, match="SyncBatchNorm takes the statistics of all processes"):
        synced.accumulate(*batch, [None], ranks=two)


def naive(
    supernet: Supernet, subnets: Sequence[Bits | None], images: Tensor, labels: Tensor
) -> tuple[dict[str, Tensor | None], dict[str, Tensor], float]:
    """Mean gradients, mean statistics and mean loss, each subnet on a copy of its own."""
    runs = [alone(supernet, bits, images, labels) for bits in subnets]
    gradients: dict[str, Tensor | None] = {}
    for name, _ in supernet.model.named_parameters():
        found = [dict(model.named_parameters())[name].grad for model, _ in runs]
        present = [gradient for gradient in found if gradient is not None]
        gradients[name] = sum(present[1:], present[0]) / len(runs) if present else None
    start = {name: buffer.clone() for name, buffer in supernet.model.named_buffers()}
    statistics = {}
    for name, old in start.items():
        counter = f"{name.rpartition('.')[0]}.num_batches_tracked"
        moved = [
            dict(model.named_buffers())[name]
            for model, _ in runs
            if dict(model.named_buffers())[counter] != start[counter]
        ]
        statistics[name] = torch.stack(moved).double().mean(0) if moved else old.double()
    return gradients, statistics, sum(loss for _, loss in runs) / len(runs)


def assert_as_naive(supernet: Supernet, subnets: Sequence[Bits | None], batch: tuple[Tensor, Tensor]) -> None:
    gradients, statistics, loss = naive(supernet, subnets, *batch)
    assert supernet.accumulate(*batch, subnets) == pytest.approx(loss, rel=1e-12)
    for name, parameter in supernet.model.named_parameters():
        expected = gradients[name]
        if expected is None:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-12)
    for name, buffer in supernet.model.named_buffers():
        torch.testing.assert_close(buffer.double(), statistics[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_accumulate_is_the_mean_of_the_subnets(supernet: Supernet, batch: tuple[Tensor, Tensor], count: int) -> None:
    assert_as_naive(supernet, candidates(supernet, count), batch)


def test_accumulate_with_a_subnet_twice_and_one_without_branches(
    supernet: Supernet, batch: tuple[Tensor, Tensor]
) -> None:
    one, two = candidates(supernet, 2)
    assert_as_naive(supernet, [one, two, one, np.zeros_like(one)], batch)


def test_the_whole_supernet_is_a_step_of_every_branch(supernet: Supernet, batch: tuple[Tensor, Tensor]) -> None:
    tracked = {name: int(b) for name, b in supernet.model.named_buffers() if name.endswith("num_batches_tracked")}
    assert_as_naive(supernet, [None], batch)
    assert all(parameter.grad is not None for parameter in supernet.model.parameters())
    assert {name: int(supernet.model.get_buffer(name)) - old for name, old in tracked.items()} == dict.fromkeys(
        tracked, 1
    )


def test_two_steps_start_from_what_the_first_left(supernet: Supernet, batch: tuple[Tensor, Tensor]) -> None:
    for seed in (1, 2):
        supernet.model.zero_grad(set_to_none=True)
        assert_as_naive(supernet, candidates(supernet, 3, seed), batch)


def test_num_batches_tracked_counts_steps_not_subnets(supernet: Supernet, batch: tuple[Tensor, Tensor]) -> None:
    everywhere = np.ones(supernet.space.size, dtype=bool)
    everywhere[0] = False
    for _ in range(3):
        supernet.accumulate(*batch, [everywhere, everywhere])
    left_out = f"{supernet.space.layers[0]}.branches.{supernet.space.branches[supernet.space.positions[0][1]]}."
    counters = {n: int(b) for n, b in supernet.model.named_buffers() if n.endswith("num_batches_tracked")}
    assert {n for n, count in counters.items() if count == 0} == {n for n in counters if n.startswith(left_out)}
    assert set(counters.values()) == {0, 3}


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_what_is_outside_the_subnets_is_not_moved_even_with_momentum(
    supernet: Supernet, batch: tuple[Tensor, Tensor], kind: str, tiny: Tiny
) -> None:
    settings = tiny().search
    weights, arch = optimizer_of(supernet.weights(), settings.weights), adam(supernet.arch_parameters(), settings.arch)
    assert settings.weights.momentum > 0
    assert settings.weights.weight_decay > 0
    first = np.ones(supernet.space.size, dtype=bool)
    second = first.copy()
    second[4] = False
    row, column = supernet.space.positions[4]
    layer, branch = supernet.space.layers[row], supernet.space.branches[column]
    outside = (f"{layer}.branches.{branch}.", f"{layer}.alpha.{branch}")
    optimizer, mine = (weights, "branches") if kind == "sgd" else (arch, "alpha")
    states = []
    for subnet in (first, second):
        weights.zero_grad(set_to_none=True)
        arch.zero_grad(set_to_none=True)
        supernet.accumulate(*batch, [subnet, subnet])
        optimizer.step()
        states.append(copy.deepcopy(supernet.model.state_dict()))
    tensors = [name for name in states[0] if name.startswith(outside)]
    assert any(mine in name for name in tensors)
    assert all(torch.equal(states[0][name], states[1][name]) for name in tensors)
    others = {name for name, _ in supernet.model.named_parameters() if not name.startswith(outside) and mine in name}
    assert all(not torch.equal(states[0][name], states[1][name]) for name in others)


def test_weights_and_arch_parameters_share_nothing_and_leave_nothing_out(supernet: Supernet) -> None:
    names = {id(parameter): name for name, parameter in supernet.model.named_parameters()}
    weights = [names[id(parameter)] for parameter in supernet.weights()]
    arch = [names[id(parameter)] for parameter in supernet.arch_parameters()]
    assert sorted([*weights, *arch]) == sorted(names.values())
    assert all(".alpha." in name or name.endswith(".beta") for name in arch)
    assert len(arch) == supernet.space.size + len(supernet.space.layers)


def test_select_is_undone_after_a_step(supernet: Supernet, batch: tuple[Tensor, Tensor]) -> None:
    supernet.accumulate(*batch, candidates(supernet, 2))
    active = [name for layer in supernet.space.layers for name in supernet.model.get_submodule(layer).active]
    assert len(active) == supernet.space.size


_STEPS = """
import numpy as np, torch
from irepdeploy.network.nets import build_plain
from irepdeploy.search.execution.loop import clip
from irepdeploy.search.execution.ranks import Ranks
from irepdeploy.search.supernet.supernet import Supernet
from support.foreign import Restless

def steps(ranks, split, step="exact", make=lambda: build_plain("vgg6", stages=[[4, 4], [6]])):
    torch.manual_seed(0)
    supernet = Supernet(make(), "ireps", step=step)
    supernet.model.train()
    weights = torch.optim.SGD(supernet.weights(), lr=0.05, momentum=0.9)
    arch = torch.optim.Adam(supernet.arch_parameters(), lr=0.01)
    images = torch.randn(8, 1, 16, 16).repeat_interleave(2, 0)[[*range(0, 16, 2), *range(1, 16, 2)]]
    images = images.contiguous(memory_format=torch.channels_last)
    random = np.random.default_rng(1)
    losses = []
    for step in range(4):
        subnets = [None] if step == 0 else [random.random(supernet.space.size) < 0.5 for _ in range(5)]
        labels = torch.arange(8).repeat(2)
        losses.append(supernet.accumulate(images, labels, subnets, ranks=ranks, split=split))
        clip(weights, 1.0)
        weights.step()
        arch.step()
    return losses, supernet.model.state_dict()

with Ranks.from_environment() as ranks:
    found = {split: steps(ranks, split) for split in ("subnets", "batch")}
    found["merged"] = steps(ranks, "subnets", "merged")
    found["restless"] = steps(ranks, "subnets", make=Restless)
    torch.save(found, f"FOLDER/{ranks.size}-{ranks.rank}.pt")
"""
Ends = dict[str, tuple[list[float], dict[str, Tensor]]]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[Ends]:
    """Losses and weights after four steps, by how they were split: of one process, then of two ranks."""
    folder = tmp_path_factory.mktemp("steps")
    code = _STEPS.replace("FOLDER", str(folder))
    exec(compile(code, "<one process>", "exec"), {})
    ranks = run_ranks(code, 2)
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr
    return [torch.load(folder / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt")]


@pytest.mark.parametrize("step", ["subnets", "merged", "restless"])
def test_whole_subnets_on_each_rank_give_the_same_bits_as_one_process(step: str, ends: list[Ends]) -> None:
    (losses, weights), *others = (end[step] for end in ends)
    for other_losses, other_weights in others:
        assert other_losses == losses
        assert other_weights.keys() == weights.keys()
        assert all(torch.equal(other_weights[name], tensor) for name, tensor in weights.items())


def test_a_batch_divided_into_equal_parts_gives_the_same_weights_up_to_rounding(ends: list[Ends]) -> None:
    # Both halves hold the same images, so that their batch statistics are those of the whole.
    (losses, weights), first, second = (end["batch"] for end in ends)
    assert first[0] == second[0] == pytest.approx(losses, rel=1e-4)
    for name, tensor in weights.items():
        assert torch.equal(first[1][name], second[1][name]), name
        if "running_var" not in name:
            torch.testing.assert_close(first[1][name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_merged_step_has_other_weights_than_the_exact_one(ends: list[Ends]) -> None:
    (exact, _), (merged, _) = ends[0]["subnets"], ends[0]["merged"]
    assert merged != exact
    assert merged == pytest.approx(exact, rel=0.2)


def test_subnets_of_a_merged_step_share_their_sample(tiny: Tiny, batch: tuple[Tensor, Tensor]) -> None:
    supernet = build_supernet(tiny("search.step=merged"))
    supernet.model.train()
    images, labels = batch[0].float().repeat(4, 1, 1, 1), batch[1].repeat(4)
    [bits] = candidates(supernet, 1)
    start = copy.deepcopy(supernet.model.state_dict())
    losses = []
    for subnets in ([bits], [bits, bits], [bits]):
        supernet.model.load_state_dict(start)
        before = torch.manual_seed(5 if len(losses) < 2 else 6).get_state()
        losses.append(supernet.accumulate(images, labels, subnets))
        # Of the shared generator, one number a step.
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        torch.randint(2**62, ())
        assert torch.equal(torch.get_rng_state(), after)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0] != losses[2]


def test_amp_computes_in_bfloat16_and_leaves_float32_gradients(tiny: Tiny, batch: tuple[Tensor, Tensor]) -> None:
    supernet = build_supernet(tiny())
    supernet.model.train()
    images, labels = batch[0].float(), batch[1]
    start = copy.deepcopy(supernet.model.state_dict())
    subnets = candidates(supernet, 3)
    ends = []
    for amp in (False, True):
        supernet.model.load_state_dict(start)
        loss = supernet.accumulate(images, labels, subnets, amp=amp)
        gradients = {n: p.grad for n, p in supernet.model.named_parameters() if p.grad is not None}
        assert all(gradient.dtype is torch.float32 for gradient in gradients.values())
        ends.append((loss, gradients))
    (loss, gradients), (rounded, others) = ends
    assert 0 < abs(rounded - loss) < 0.05
    assert others.keys() == gradients.keys()
    flat, other = (torch.cat([g.flatten() for g in part.values()]) for part in (gradients, others))
    assert torch.nn.functional.cosine_similarity(flat, other, dim=0) > 0.98


def test_buffers_of_a_users_layers_are_averaged_over_subnets_and_counters_count_once() -> None:
    torch.manual_seed(0)
    supernet = Supernet(Restless(), "ireps")
    start = copy.deepcopy(supernet.model.train().state_dict())
    images, subnets = torch.randn(6, 1, 8, 8), candidates(supernet, 3)
    changes = []
    for each in ([subnets[0]], [subnets[1]], [subnets[2]], subnets):
        torch.manual_seed(5)
        supernet.model.load_state_dict(start)
        supernet.model.drop.p = 0.0
        supernet.accumulate(images, torch.arange(6), each)
        changes.append({name: value - start[name] for name, value in supernet.model.state_dict().items()})
    *alone, together = changes
    for name in ("norm.running_mean", "mean"):
        assert together[name].abs().max() > 0
        torch.testing.assert_close(together[name], sum(each[name] for each in alone) / 3)
    assert together["norm.num_batches_tracked"] == together["passes"] == 1
