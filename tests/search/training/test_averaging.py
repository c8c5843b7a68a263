from __future__ import annotations

import pytest
import torch
from torch import nn

from irepdeploy.search.training.averaging import averaged


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_weights_and_statistics_are_averaged_and_counters_are_not(decay: float) -> None:
    model = net()
    average = averaged(model, decay)
    expected = 0.0
    for step in range(1, 30):
        with torch.no_grad():
            model[0].weight.fill_(step**2)
            model[1].running_mean.fill_(-(step**2))
            model[1].num_batches_tracked += 1
        average.update_parameters(model)
        kept = min(decay, step / (step + 9)) if step > 1 else 0.0
        expected = kept * expected + (1 - kept) * step**2
        assert average.module[0].weight.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-5)
        assert average.module[1].running_mean.tolist() == pytest.approx([-expected] * 2, rel=1e-5)
        assert int(average.module[1].num_batches_tracked) == step


def test_the_network_itself_is_left_alone() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average = averaged(model, 0.9)
    average.update_parameters(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_its_state_goes_on() -> None:
    model = net()
    one, two = averaged(model, 0.9), averaged(model, 0.9)
    one.update_parameters(model)
    two.load_state_dict(one.state_dict())
    with torch.no_grad():
        model[0].weight.add_(1)
    one.update_parameters(model)
    two.update_parameters(model)
    assert torch.equal(one.module[0].weight, two.module[0].weight)
