from __future__ import annotations

import pytest
import torch
from torch import nn

from irepdeploy.reparam.block import RepBlock


def block() -> RepBlock:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
    made = RepBlock(conv, nn.BatchNorm2d(3), ["conv1x3", "identity"])
    # Statistics that do not move: what differs is the dropping alone.
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return made


def parts(made: RepBlock, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return made.fixed(x), {name: made.branches[name](x, made.factor(name)) for name in made.active}


def test_each_image_keeps_or_loses_a_branch_whole_and_the_mean_stays() -> None:
    made = block()
    made.drop_path = 0.25
    x = torch.randn(1, 3, 5, 5).expand(4000, -1, -1, -1)
    fixed, branches = parts(made, x[:1])
    wide, whole = (y[0] / 0.75 for y in branches.values())
    with torch.no_grad():
        found = made(x) - fixed
    combinations = {"none": 0 * wide, "one": wide, "other": whole, "both": wide + whole}
    share = {}
    for name, expected in combinations.items():
        share[name] = float((found - expected).abs().amax((1, 2, 3)).lt(1e-5).float().mean())
    assert sum(share.values()) == pytest.approx(1)
    assert share["none"] == pytest.approx(0.0625, abs=0.02)
    assert share["both"] == pytest.approx(0.5625, abs=0.04)
    assert found.mean(0).flatten().tolist() == pytest.approx((0.75 * (wide + whole)).flatten().tolist(), abs=0.05)


def test_nothing_is_dropped_in_eval_mode() -> None:
    made = block().eval()
    x = torch.randn(8, 3, 5, 5)
    expected = made(x)
    made.drop_path = 0.9
    assert torch.equal(made(x), expected)


def test_without_it_the_generator_is_not_touched() -> None:
    made = block()
    before = torch.get_rng_state()
    made(torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), before)
