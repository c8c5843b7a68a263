"""Numerical health: every figure against one computed by hand, its edges, and its way into the certificate."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.cli import main
from irepdeploy.errors import InputError
from irepdeploy.profiling.health import LayerHealth, WeightHealth, health_warnings, kernel_health, network_health
from irepdeploy.reparam.block import RepBlock
from irepdeploy.verify.certificate import Certificate
from support.networks import random_network

Capture = pytest.CaptureFixture[str]


def decibels(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise)


def reference(kernel: torch.Tensor) -> tuple[float, float, float]:
    """The three int8 figures by their definition, in float64, channel by channel."""
    w = kernel.double().flatten(1).numpy()
    step = np.abs(w).max() / 127
    noise = (w - np.rint(w / step) * step) ** 2
    own = np.abs(w).max(1, keepdims=True) / 127
    own_noise = (w - np.rint(w / own) * own) ** 2
    worst = min(decibels(s, n) for s, n in zip((w**2).sum(1), noise.sum(1), strict=True))
    return decibels((w**2).sum(), noise.sum()), decibels((w**2).sum(), own_noise.sum()), worst


def test_int8_by_hand() -> None:
    # The largest is 127, so the step is 1; a half goes to the even neighbour.
    kernel = torch.tensor([[127.0, 0.5, 1.25, -2.75], [0.25, 0.125, 0.0, 0.0]]).reshape(2, 1, 2, 2)
    first, second = 127**2 + 0.5**2 + 1.25**2 + 2.75**2, 0.25**2 + 0.125**2
    noise = 0.5**2 + 0.25**2 + 0.25**2
    found = kernel_health(kernel)
    assert found.int8_tensor_db == pytest.approx(decibels(first + second, noise + second))
    # With its own step size the second channel is 127 and 63.5 steps, and half a step is lost.
    own_step = 0.25 / 127
    assert found.int8_channel_db == pytest.approx(decibels(first + second, noise + (0.5 * own_step) ** 2))
    # With the common step size nothing is left of it.
    assert found.int8_worst_channel_db == 0.0
    assert (found.max_weight, found.max_bias, found.not_finite, found.fp16_overflow) == (127, 0, 0, 0)


@pytest.mark.parametrize("shape", [(3, 2, 3, 3), (1, 1, 1, 1), (64, 1, 3, 3), (300, 200, 3, 3), (7, 40_000, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_int8_by_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    spread = 10 ** torch.empty(shape[0], 1, 1, 1).uniform_(-1, 0, generator=generator)
    kernel = (torch.randn(shape, generator=generator) * spread).to(dtype)
    found = kernel_health(kernel)
    if shape == (1, 1, 1, 1):
        # One number is always a whole number of its own steps.
        assert found.int8_tensor_db is found.int8_channel_db is found.int8_worst_channel_db is None
        return
    figures = (found.int8_tensor_db, found.int8_channel_db, found.int8_worst_channel_db)
    assert figures == pytest.approx(reference(kernel), abs=2e-3)


def test_where_there_is_no_ratio() -> None:
    zero = kernel_health(torch.zeros(4, 2, 3, 3), torch.zeros(4))
    assert zero == WeightHealth(0, 0, 0, 0, 0, None, None, None)
    exact = kernel_health(torch.tensor([127.0, -3.0, 0.0, 64.0]).reshape(2, 2, 1, 1) / 1024)
    assert exact.int8_tensor_db is None and exact.int8_worst_channel_db is None
    # A channel that is all zero is ignored.
    one = torch.tensor([1.0, 0.3]).reshape(1, 2, 1, 1)
    both = kernel_health(torch.cat([one, torch.zeros_like(one)]))
    assert both.int8_worst_channel_db == both.int8_tensor_db == kernel_health(one).int8_tensor_db is not None


def test_numbers_so_small_that_their_squares_vanish() -> None:
    found = kernel_health(torch.tensor([[1.0, 0.4], [1e-35, 0.3e-35]]))
    assert found.int8_worst_channel_db == 0.0 and found.int8_tensor_db == found.int8_channel_db is not None
    # Subnormal in float32, and exact.
    found = kernel_health(torch.full((2, 1, 1, 1), 1e-42))
    assert found.max_weight > 0 and found.fp16_lost == 1 and found.int8_tensor_db is None


@pytest.mark.parametrize("exponent", [-120, -60, 0, 60, 120])
def test_figures_do_not_depend_on_the_scale(exponent: int) -> None:
    kernel = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    plain, scaled = kernel_health(kernel), kernel_health(torch.ldexp(kernel, torch.tensor(exponent)))
    for name in ("int8_tensor_db", "int8_channel_db", "int8_worst_channel_db"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), abs=1e-4)


def test_one_step_a_kernel_loses_small_channels_and_only_the_worst_channel_tells() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(64, 64, 3, 3, generator=generator)
    even = kernel_health(kernel)
    spread = kernel_health(kernel * 10 ** torch.empty(64, 1, 1, 1).uniform_(-1.5, 1.5, generator=generator))
    tensor, channel, worst = (
        getattr(even, name) - getattr(spread, name)
        for name in ("int8_tensor_db", "int8_channel_db", "int8_worst_channel_db")
    )
    assert tensor < 10 and abs(channel) < 1 and worst > 30


def test_fp16_limits() -> None:
    values = [65504.0, 65505.0, -70000.0, 2.0**-14, 2.0**-14 - 2.0**-30, -(2.0**-25), 1e-12, 0.0]
    found = kernel_health(torch.tensor(values).reshape(2, 1, 2, 2), torch.tensor([65504.0, -1e9]))
    assert found.fp16_overflow == 3
    assert found.fp16_lost == 3 / 7
    assert (found.max_weight, found.max_bias) == (70000, 1e9)


def test_fp16_limits_are_those_of_fp16() -> None:
    kernel = 10 ** torch.empty(50, 200).uniform_(-9, 9, generator=torch.Generator().manual_seed(0))
    half = kernel.half()
    found = kernel_health(kernel)
    assert found.fp16_overflow == int(half.isinf().sum())
    assert found.fp16_lost == float((half < torch.finfo(torch.float16).tiny).double().mean())


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    kernel = torch.tensor([1.0, math.nan, math.inf, 0.3]).reshape(2, 1, 2, 1)
    found = kernel_health(kernel, torch.tensor([-math.inf, 2.0]))
    clean = kernel_health(torch.tensor([1.0, 0.0, 0.0, 0.3]).reshape(2, 1, 2, 1), torch.tensor([0.0, 2.0]))
    assert found == WeightHealth(**{**vars(clean), "not_finite": 3})
    json.dumps(vars(kernel_health(torch.full((2, 2, 1, 1), math.nan))), allow_nan=False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    kernel = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert kernel_health(kernel, kernel[:, 0, 0, 0]) == kernel_health(kernel.float(), kernel[:, 0, 0, 0].float())


@torch.no_grad()
def test_before_is_the_plain_network_and_after_the_fused_one() -> None:
    network = random_network(branches="ireps")
    fused = ird.fuse(network)
    found = network_health(network)
    assert [layer.layer for layer in found] == [f"stages.{i}.{j}.conv" for i in range(3) for j in range(2)]
    for layer in found:
        block, conv = network.get_submodule(layer.layer), fused.get_submodule(layer.layer)
        assert isinstance(block, RepBlock) and isinstance(conv, nn.Conv2d)
        conv0, bn = block.fixed.conv, block.fixed.bn
        factor = bn.weight / (bn.running_var + bn.eps).sqrt()  # type: ignore[union-attr,operator]
        assert layer.before is not None and layer.branches == block.active
        assert layer.before.max_weight == pytest.approx(float((conv0.weight * factor[:, None, None, None]).abs().max()))
        assert layer.before.max_bias == pytest.approx(float((bn.bias - bn.running_mean * factor).abs().max()))  # type: ignore[union-attr,operator]
        assert layer.after == kernel_health(conv.weight, conv.bias)
        assert layer.int8_drop_db is not None and layer.after.int8_tensor_db is not None
    assert network_health(network, fused) == found
    after = network_health(fused)
    assert [(layer.before, layer.after) for layer in after] == [(None, layer.after) for layer in found]
    assert [layer.branches for layer in after] == [layer.branches for layer in found]
    assert all(layer.int8_drop_db is None for layer in after)


def test_only_what_was_fused_counts_in_a_fused_network() -> None:
    some = ird.insert_branches(random_network(), "acnet", where="stages.2").eval()
    assert [layer.layer for layer in network_health(ird.fuse(some))] == ["stages.2.0.conv", "stages.2.1.conv"]


def test_networks_that_say_nothing_of_themselves() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 5, bias=False), nn.Linear(2, 2))
    found = network_health(network)
    assert [layer.layer for layer in found] == ["0", "2"]
    assert found[0].after == kernel_health(network[0].weight, network[0].bias)
    assert network_health(nn.ReLU()) == []


def test_inactive_branches_change_nothing() -> None:
    network = random_network(branches="ireps")
    for module in network.modules():
        if isinstance(module, RepBlock):
            module.active = ()
    assert all(layer.before == layer.after and layer.branches == () for layer in network_health(network))


def with_large_centre(factor: float) -> nn.Module:
    """The demo network with an identity branch so strong that its taps dominate their kernel."""
    network = random_network(branches="ireps")
    with torch.no_grad():
        network.stages[1][1].conv.branches["identity"].bn.weight.mul_(factor)
    return network


def test_warnings() -> None:
    assert health_warnings(network_health(random_network(branches="ireps"))) == []
    (line,) = health_warnings(network_health(with_large_centre(30)))
    assert line.startswith("stages.1.1.conv: the fuse lowers the int8 SQNR of the weights by ")
    assert "more layer" not in line and "12 dB" in line and "measure the accuracy" in line
    (overflow,) = health_warnings(network_health(with_large_centre(1e6)))
    assert overflow.startswith("stages.1.1.conv: 41 values overflow fp16")
    broken = with_large_centre(1)
    with torch.no_grad():
        broken.stages[0][0].conv.fixed.conv.weight[0] = math.nan
        broken.stages[2][1].conv.fixed.conv.weight[:2] = math.inf
    (line,) = health_warnings(network_health(broken))
    assert line == f"stages.2.1.conv: {2 * 64 * 9} values are NaN or infinite (and 1 more layer)"


def test_an_unweighed_identity_sticks_out() -> None:
    found = {layer.layer: layer.int8_drop_db or 0.0 for layer in network_health(random_network(branches="repvgg"))}
    with_identity = [drop for name, drop in found.items() if ".1.conv" in name]
    assert min(with_identity) > 12 > max(drop for name, drop in found.items() if ".0.conv" in name)


@pytest.mark.parametrize(("drop", "warned"), [(11.9, False), (12.1, True)])
@pytest.mark.parametrize("figure", ["int8_tensor_db", "int8_channel_db"])
def test_a_drop_of_two_bits_is_warned_of(drop: float, warned: bool, figure: str) -> None:
    before = kernel_health(torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
    after = WeightHealth(**{**vars(before), figure: getattr(before, figure) - drop})
    layer = LayerHealth("conv", ("conv1x1",), before, after)
    assert layer.int8_drop_db == pytest.approx(drop)
    assert bool(health_warnings([layer])) is warned
    # A figure that rises, or has nothing to compare with, is not a drop.
    assert health_warnings([LayerHealth("conv", (), after, before), LayerHealth("conv", (), None, after)]) == []


def test_to_json_and_back() -> None:
    empty = LayerHealth("a", (), None, kernel_health(torch.zeros(1, 1)))
    for layer in (*network_health(random_network(branches="ireps")), empty):
        assert LayerHealth.from_dict(json.loads(json.dumps(layer.to_dict(), allow_nan=False))) == layer


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """Lines that the export of `exported` wrote to stderr."""
    return []


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, printed: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("export")
    ird.save(with_large_centre(1e6), folder / "trained.pt")
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert main(["export", str(folder / "trained.pt"), "--out", str(folder), "--no-simplify"]) == 0
    printed += err.getvalue().splitlines()
    return folder


def test_the_certificate_holds_it(exported: Path) -> None:
    certificate = Certificate.load(exported / "certificate.json")
    found = [LayerHealth.from_dict(layer) for layer in certificate.health]
    assert found == network_health(ird.load(exported / "trained.pt"))
    fused = ird.load(exported / "fused.pt")
    assert [layer.after for layer in found] == [layer.after for layer in network_health(fused)]


def test_export_warns(exported: Path, printed: list[str]) -> None:
    warnings = [line for line in printed if line.startswith("warning: ")]
    assert len(warnings) == 1 and "stages.1.1.conv: 41 values overflow fp16" in warnings[0]


def test_certificates_from_before_health_was_measured(exported: Path) -> None:
    value = json.loads((exported / "certificate.json").read_text())
    # Version 1 has no digest.
    value["version"] = 1
    del value["health"], value["digest"]
    old = Certificate.from_dict(value)
    assert old.health == [] and old.ok
    del value["blocks"]
    with pytest.raises(InputError, match="damaged"):
        Certificate.from_dict(value)


@pytest.mark.parametrize("health", [None, {}, "text", [1], [[]]])
def test_health_that_is_none(exported: Path, health: object) -> None:
    value = {**json.loads((exported / "certificate.json").read_text()), "health": health}
    with pytest.raises(InputError, match="damaged"):
        Certificate.from_dict(value)
