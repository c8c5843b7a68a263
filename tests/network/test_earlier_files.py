"""Files written by version 0.1.0 as of November 2026, kept in ``assets``, load and give the outputs recorded then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.board.runner import TensorSpec
from irepdeploy.network import checkpoint
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.origin import origin_of
from support.networks import ConvBn

ASSETS = Path(__file__).parent / "assets"
OUTPUTS = json.loads((ASSETS / "outputs.json").read_text())


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image: Tensor, word: Tensor) -> Tensor:
        return self.conv(image) + self.words(word)[:, :, None, None]


def ramp(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape).sin()


def loaded(name: str) -> nn.Module:
    model = ConvBn if name.startswith("foreign") else TwoInputs if name == "two-inputs" else None
    return ird.load(ASSETS / f"{name}.pt", model=model)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_checkpoint_gives_the_recorded_outputs_and_is_described_the_same(name: str) -> None:
    net = loaded(name)
    if name == "two-inputs":
        inputs = ramp(2, 3, 6, 6), torch.tensor([1, 4])
        assert origin_of(net).specs[1] == TensorSpec("word", (None,), "int64")
    else:
        inputs = (ramp(2, *origin_of(net).input_shape),)
    with torch.no_grad():
        found = net(*inputs).flatten()[:12]
    torch.testing.assert_close(found, torch.tensor(OUTPUTS[name]), atol=2e-6, rtol=1e-5)
    # Today's files are the same as those written then.
    written = checkpoint.read(ASSETS / f"{name}.pt")["origin"]
    assert origin_of(net).to_dict() == written


def test_what_a_checkpoint_keeps() -> None:
    train = loaded("train")
    origin = origin_of(train)
    assert (origin.net, origin.state, origin.dataset, origin.classes) == ("vgg6", "train", "digits", ("a", "b", "c"))
    assert "conv1x1" not in train.get_submodule("stages.0.0.conv").active
    assert checkpoint.read(ASSETS / "train.pt")["extra"] == {"top1": 0.5, "steps": [1, 2]}
    assert ird.Architecture.load(ASSETS / "architecture.json") == origin.architecture
    assert origin.architecture.digest == "8f9115274fa3defcc177c4aa7456ba9d2b38e4cb42cc4429389359a43c1f62b7"
    fused = loaded("fused")
    assert origin_of(fused).state == "fused" and not any(isinstance(m, RepBlock) for m in fused.modules())
    assert ird.compare(train, fused, ramp(1, 1, 8, 8)).ok
    again = origin_of(loaded("fused-with-branches-again")).layers
    assert [(layer.folded, layer.fused) for layer in again] == [(True, False), (True, False), (False, True)]
    assert origin_of(loaded("own-normalisation")).layers[0].own_bn
    assert origin_of(loaded("foreign")).factory == "my.code:make"
