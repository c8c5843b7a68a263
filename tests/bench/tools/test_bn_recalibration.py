from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from irepdeploy.bench.tools.bn_recalibration import _batches, main, measure_recalibration
from irepdeploy.search.evaluation.recalibration import recalibrate
from irepdeploy.search.supernet.builders import build_net, load_data
from support.tiny import Tiny


def test_recalibration_gives_the_mean_of_all_batches_and_changes_nothing_else(tiny: Tiny) -> None:
    recipe = tiny("data.options.train=100")
    data, net = load_data(recipe), build_net(recipe).train()
    net(data.val.images[:10])
    weights = {name: parameter.clone() for name, parameter in net.named_parameters()}
    recalibrate(net, _batches(data))
    conv, bn = (net.get_submodule(f"stages.0.0.{name}") for name in ("conv", "bn"))
    assert isinstance(bn, nn.BatchNorm2d) and bn.running_mean is not None
    with torch.no_grad():
        maps = [conv(data.train.images[start : start + 50]) for start in (0, 50)]
    torch.testing.assert_close(bn.running_mean, sum(each.mean((0, 2, 3)) for each in maps) / 2)
    torch.testing.assert_close(bn.running_var, sum(each.var((0, 2, 3)) for each in maps) / 2)
    assert bn.momentum == 0.1 and not net.training
    assert all(torch.equal(weights[name], parameter) for name, parameter in net.named_parameters())


@pytest.mark.slow
def test_each_candidate_is_scored_in_three_ways(tiny: Tiny, tmp_path: Path) -> None:
    found = measure_recalibration(tiny("train.epochs=1"), 4, 2, tmp_path)
    assert [len(found[name]) for name in ("shared", "recalibrated")] == [4, 4]
    losses = zip(found["shared"], found["recalibrated"], strict=True)
    assert max(abs(one[1] - other[1]) for one, other in losses) > 0.01
    assert [len(each) for each in found["retrained"]] == [4, 4]
    for seed, number in itertools.product(range(2), range(4)):
        result = json.loads((tmp_path / f"train-seed{seed}" / f"{number:03d}" / "result.json").read_text())
        assert found["retrained"][seed][number] == result["val_accuracy"]
    assert all(tau is None or -1 <= tau <= 1 for tau in found["kendall"].values())
    assert len(found["kendall"]) == 4


def test_the_program(tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(str(tmp_path / "record.jsonl"), "2", "1", *tiny_overrides, "train.epochs=1")
    assert "shared against recalibrated" in capsys.readouterr().out
    (line,) = (tmp_path / "record.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["benchmark"] == "bn recalibration"
    assert record["kendall"]["one retraining against another"] is None
    assert "cpu" in record["system"] and record["overrides"][0] == "scale=smoke"
