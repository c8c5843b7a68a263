from __future__ import annotations

import pytest
import torch

from irepdeploy.detect.target import Target, Targets
from irepdeploy.errors import InputError


def target(image_id: int, count: int = 1) -> Target:
    boxes = torch.tensor([[0.0, 0, 4, 4]]).repeat(count, 1)
    return Target(boxes, torch.zeros(count).long(), torch.zeros(count).bool(), image_id, (8, 8))


def test_targets_are_indexed_like_labels() -> None:
    targets = Targets(target(image_id) for image_id in (7, 3, 5))
    assert targets[0].image_id == 7 and targets[-1].image_id == 5
    assert [each.image_id for each in targets[1:]] == [3, 5]
    chosen = targets[torch.tensor([2, 0])]
    assert isinstance(chosen, Targets) and [each.image_id for each in chosen] == [5, 7]
    assert [len(each) for each in Targets([target(1, 3), target(2, 0)]).to("cpu")] == [3, 0]


def test_parts_of_a_target_fit_together() -> None:
    with pytest.raises(InputError, match=r"image 4: expected boxes \(n, 4\), labels \(n,\) and crowd \(n,\), got"):
        Target(torch.zeros(2, 4), torch.zeros(1).long(), torch.zeros(1).bool(), 4, (8, 8))
