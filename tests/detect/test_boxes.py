"""Boxes: overlaps, coding, clipping; suppression against a greedy loop."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irepdeploy.detect import torchvision_operators
from irepdeploy.detect.boxes import areas, clipped, decoded, encoded, ious, overlapping
from irepdeploy.detect.highest import highest
from irepdeploy.detect.suppression import kept


def random_boxes(seed: int, *shape: int, side: float = 100, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 4, generator=generator, dtype=dtype) * side
    # Sides from 1 to 51: deltas enlarge no box beyond 62.5 times its anchor.
    return torch.cat([corners[..., :2], corners[..., :2] + 1 + corners[..., 2:] / 2], -1)


def greedy(boxes: Tensor, threshold: float, valid: Tensor, groups: Tensor) -> list[int]:
    found: list[int] = []
    overlaps = ious(boxes, boxes).tolist()
    for index in range(len(boxes)):
        clash = any(overlaps[index][other] > threshold for other in found if groups[other] == groups[index])
        if valid[index] and not clash:
            found.append(index)
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([0.2, 0.5, 0.7]), st.integers(1, 3))
def test_suppression_is_that_of_a_greedy_loop(seed: int, count: int, threshold: float, classes: int) -> None:
    # Integer corners, so that equal boxes and exact ties with the threshold occur.
    boxes = random_boxes(seed, count, side=20).round()
    generator = torch.Generator().manual_seed(seed)
    valid = (torch.rand(count, generator=generator) < 0.9) & (areas(boxes) > 0)
    groups = torch.randint(classes, (count,), generator=generator)
    found = kept(boxes, threshold, valid.to(boxes), groups)
    assert found.nonzero()[:, 0].tolist() == greedy(boxes, threshold, valid, groups)
    assert torch.equal(kept(boxes[None], threshold, valid.to(boxes)[None], groups[None])[0], found)


def test_torchvision_gets_each_image_and_group_by_falling_score(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        assert bool((scores[1:] < scores[:-1]).all())
        calls.append(len(boxes))
        none = torch.zeros(len(boxes))
        return torch.tensor(greedy(boxes, threshold, none + 1, none), dtype=torch.int64)

    boxes = random_boxes(3, 2, 3, 20, side=30)
    valid = torch.rand(2, 3, 20, generator=torch.Generator().manual_seed(1)) < 0.8
    groups = torch.randint(2, (2, 3, 20), generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(torchvision_operators, "_imported", lambda: None)
    plain, single = kept(boxes, 0.3, valid.to(boxes), groups), kept(boxes[0, 0], 0.3, valid[0, 0].to(boxes))
    monkeypatch.setattr(torchvision_operators, "_imported", lambda: SimpleNamespace(nms=nms))
    assert torch.equal(kept(boxes, 0.3, valid.to(boxes), groups), plain) and len(calls) == 12
    assert sum(calls) == int(valid.sum()) and torch.equal(kept(boxes[0, 0], 0.3, valid[0, 0].to(boxes)), single)
    # A static graph, half precision, and no box at all.
    calls.clear()
    kept(boxes, 0.3, valid.to(boxes), rounds=2)
    kept(boxes.bfloat16(), 0.3, valid.to(boxes))
    assert kept(torch.zeros(2, 0, 4), 0.5, torch.zeros(2, 0)).shape == (2, 0) and not calls


def test_the_first_of_equal_values_is_the_highest() -> None:
    values = torch.randint(8, (3, 2, 500), generator=torch.Generator().manual_seed(0)).float()
    for count in (1, 77, 500):
        best, index = highest(values, count)
        assert torch.equal(best, values.topk(count).values) and torch.equal(values.gather(-1, index), best)
        falls = (best[..., 1:] < best[..., :-1]) | (index[..., 1:] > index[..., :-1])
        assert bool(falls.all()) and int((best[..., 1:] == best[..., :-1]).sum()) > 6 * (count - 20)
    assert highest(values.to("meta"), 5)[1].shape == (3, 2, 5)


def test_a_chain_takes_a_round_for_each_box() -> None:
    """Each box suppresses the next, which would have suppressed the one after it."""
    left = torch.arange(12.0) * 3
    boxes = torch.stack([left, torch.zeros(12), left + 10, torch.full((12,), 10.0)], 1)
    valid = torch.ones(12)
    assert kept(boxes, 0.5, valid).tolist() == [1, 0] * 6
    assert kept(boxes, 0.5, valid, rounds=3).tolist() != [1, 0] * 6
    assert kept(boxes, 0.5, valid, rounds=12).tolist() == [1, 0] * 6


def test_no_box_at_all_is_kept_of_none() -> None:
    assert kept(torch.zeros(2, 0, 4), 0.5, torch.zeros(2, 0)).shape == (2, 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)]))
def test_coding_is_undone(seed: int, deviations: tuple[float, ...]) -> None:
    anchors, boxes = random_boxes(seed, 7), random_boxes(seed + 1, 7)
    assert torch.allclose(decoded(anchors, encoded(anchors, boxes, deviations), deviations), boxes, atol=1e-9)


def test_wild_deltas_grow_no_box_beyond_a_limit() -> None:
    anchor = torch.tensor([[0.0, 0, 16, 16]])
    found = decoded(anchor, torch.tensor([[0.0, 0, 99, 99]]))
    assert found[0, 2] - found[0, 0] == pytest.approx(1000)


def test_overlaps_by_hand() -> None:
    first = torch.tensor([[0.0, 0, 10, 10]])
    second = torch.tensor([[5.0, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 9], [9, 9, 4, 4]])
    assert ious(first, second)[0].tolist() == pytest.approx([1 / 3, 0, 0, 0])
    assert overlapping(first, second, 0.3)[0].tolist() == [True, False, False, False]
    # Nothing over nothing is no overlap.
    assert not overlapping(second[2:3], second[2:3], 0.5).any()


def test_clipping_cuts_at_the_borders() -> None:
    found = clipped(torch.tensor([[-5.0, -1, 300, 20], [10, 90, 20, 120]]), (100, 200))
    assert found.tolist() == [[0, 0, 200, 20], [10, 90, 20, 100]]
