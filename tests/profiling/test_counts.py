from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.errors import InputError
from irepdeploy.network.checkpoint import save
from irepdeploy.network.nets import build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.profiling.counts import Counts, count
from irepdeploy.profiling.training_cost import training_cost

# Side of the map, input and output channels of each 3x3 convolution.
VGG16 = [
    *[(32, 3, 64), (32, 64, 64), (16, 64, 128), (16, 128, 128), (8, 128, 256), (8, 256, 256), (8, 256, 256)],
    *[(4, 256, 512), (4, 512, 512), (4, 512, 512), (2, 512, 512), (2, 512, 512), (2, 512, 512)],
]


def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return build(name)


def test_vgg16_by_hand() -> None:
    macs = sum(side * side * 9 * inner * outer for side, inner, outer in VGG16) + 512 * 10
    # Kernel, bias, gamma and beta of each convolution; the head.
    params = sum(9 * inner * outer + 3 * outer for _, inner, outer in VGG16) + 512 * 10 + 10
    assert params == 14_728_266
    assert macs == 313_201_664
    assert count(on_meta("vgg16"), (3, 32, 32)) == Counts(params, macs)


def test_resnet18_as_published() -> None:
    found = count(on_meta("resnet18"), (3, 224, 224))
    assert found.params == 11_689_512
    stem = 112 * 112 * 49 * 3 * 64
    stages = 4 * 56 * 56 * 9 * 64 * 64  # all four stages cost the same but for their strided first halves
    rest = 3 * (3.5 * 56 * 56 * 9 * 64 * 64)
    shortcuts = 28 * 28 * 64 * 128 + 14 * 14 * 128 * 256 + 7 * 7 * 256 * 512
    assert found.macs == stem + stages + rest + shortcuts + 512 * 1000 == 1_814_073_344


def test_branches_cost_in_the_train_state_and_nothing_when_fused() -> None:
    plain = build("vgg6").eval()
    branched = randomize_statistics(ird.insert_branches(plain, "ireps")).eval()
    before, inserted, fused = (count(net, (1, 16, 16)) for net in (plain, branched, ird.fuse(branched)))
    assert inserted.params > 3 * before.params
    assert inserted.macs > 3 * before.macs
    assert fused.macs == before.macs
    # One bias per channel in place of gamma and beta.
    assert fused.params == before.params - (16 + 16 + 32 + 32 + 64 + 64)


def test_alpha_and_beta_are_counted() -> None:
    plain = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
    branched = ird.insert_branches(plain, ["conv1x1"])
    scaled = ird.insert_branches(plain, ["conv1x1"], scaled=True)
    assert count(scaled, (4, 8, 8)).params == count(branched, (4, 8, 8)).params + 2
    # A 1x1 convolution and its batch normalization.
    assert count(branched, (4, 8, 8)) == Counts(4 * 4 * 9 + 8 + 4 * 4 + 8, 64 * (4 * 4 * 9 + 4 * 4))


def test_counting_leaves_the_network_as_it_is() -> None:
    net = ird.insert_branches(build("vgg6"), "ireps").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    count(net, (1, 16, 16))
    assert all(module.training for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    plain = build("vgg6")
    branched = ird.insert_branches(plain, "ireps")
    fused = ird.fuse(randomize_statistics(branched).eval())
    nets = {"plain": plain, "branches": branched, "fused": fused, "foreign": nn.Sequential(nn.Conv2d(1, 2, 3))}
    return {name: save(net, folder / f"{name}.pt") for name, net in nets.items()}


@pytest.mark.slow
def test_branches_cost_more_memory_in_training(checkpoints: dict[str, Path]) -> None:
    chosen = {name: checkpoints[name] for name in ("plain", "branches")}
    content = {name: path.read_bytes() for name, path in chosen.items()}
    found = training_cost(chosen, 128, min_samples=3, min_seconds=0.0)
    assert list(found) == ["plain", "branches"]
    for cost in found.values():
        assert cost.samples >= 3
        assert cost.seconds_per_step > 0
    plain, branches = (found[name].peak_memory_bytes for name in chosen)
    if plain is None or branches is None:
        pytest.skip("this system does not tell a process its peak memory")
    # 128 images of 16x16 with 16 channels in float32 are 2 MB a map, and training keeps several a layer: about 37 MB,
    # and 220 MB with nine branches.
    assert plain > 18e6
    assert branches > 2 * plain
    assert {name: path.read_bytes() for name, path in chosen.items()} == content


@pytest.mark.parametrize(
    ("name", "said"),
    [("fused", "fused network cannot be trained"), ("foreign", "class"), ("none", "no such checkpoint")],
)
def test_what_cannot_be_trained_is_refused(name: str, said: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    path = checkpoints.get(name, tmp_path / "none.pt")
    with pytest.raises(InputError, match=said):
        training_cost({name: path}, 2)
