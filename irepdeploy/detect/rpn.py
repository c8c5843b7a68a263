"""Region proposal network (Ren et al. 2015), which predicts where objects may be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.detect.anchors import Anchors
from irepdeploy.detect.assignment import assigned, sampled
from irepdeploy.detect.boxes import clipped, decoded, encoded, ious
from irepdeploy.detect.highest import highest
from irepdeploy.detect.suppression import kept
from irepdeploy.detect.target import Target

__all__ = ["Proposals", "RPNHead", "rpn_loss"]

# Values of MMDetection: an anchor is positive from an overlap of 0.7 on, and background below 0.3.
_POSITIVE, _NEGATIVE, _SHARE = 0.7, 0.3, 0.5
_SAME = 0.7


class RPNHead(nn.Module):
    """The head that predicts the objectness and deltas of each anchor, with the same convolutions for every map.

    Parameters have the same names as in MMDetection.
    """

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.rpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(channels, anchors, 1)
        self.rpn_reg = nn.Conv2d(channels, 4 * anchors, 1)
        for name, parameter in self.named_parameters():
            nn.init.normal_(parameter, std=0.01) if name.endswith("weight") else nn.init.zeros_(parameter)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits (N, anchors, h, w) and deltas (N, 4 * anchors, h, w) of each map (N, C, h, w)."""
        hidden = [F.relu(self.rpn_conv(each)) for each in maps]
        return [self.rpn_cls(each) for each in hidden], [self.rpn_reg(each) for each in hidden]


class Proposals(nn.Module):
    """A module that selects the best boxes of all maps, after suppressing those that overlap a better one of their map.

    Args:
        anchors: Anchors of the maps.
        candidates: Number of boxes per map before suppression, in train mode and in eval mode.
        count: Number of boxes per image.
    """

    traced_whole = True

    def __init__(self, anchors: Anchors, candidates: tuple[int, int], count: int) -> None:
        super().__init__()
        self.anchors, self.candidates, self.count = anchors, candidates, count

    def forward(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], size: tuple[int, int], rounds: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return boxes (N, R, 4) in an image of `size`, and whether each box is valid (N, R), as 1 or 0."""
        found, scores = [], []
        for level, (logit, delta) in enumerate(zip(logits, deltas, strict=True)):
            score, moves = flattened(logit, delta)
            anchors = self.anchors.of(level, (logit.shape[2], logit.shape[3]), moves)
            number = min(self.candidates[0 if self.training else 1], len(anchors))
            best, index = highest(score, number)
            moved = moves.gather(1, index[..., None].expand(-1, -1, 4))
            # Use index_select, because indexing a constant with a traced tensor is deprecated in torch.
            chosen = anchors.index_select(0, index.reshape(-1)).reshape(moved.shape)
            boxes = clipped(decoded(chosen, moved), size)
            valid = (boxes[..., 2:] > boxes[..., :2]).to(boxes.dtype).prod(-1)
            keep = kept(boxes, _SAME, valid, rounds=rounds)
            # The sigmoid is positive, so that suppressed boxes, with 0, rank below all others.
            scores.append(best.sigmoid() * keep)
            found.append(boxes)
        boxes, score = torch.cat(found, 1), torch.cat(scores, 1)
        best, index = highest(score, min(self.count, score.shape[1]))
        return boxes.gather(1, index[..., None].expand(-1, -1, 4)), (best > 0).to(boxes.dtype)


def flattened(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (N, k) and deltas (N, k, 4) in the order of the anchors."""
    count = logits.shape[0]
    return logits.permute(0, 2, 3, 1).reshape(count, -1), deltas.permute(0, 2, 3, 1).reshape(count, -1, 4)


def rpn_loss(
    anchors: Anchors, logits: Sequence[Tensor], deltas: Sequence[Tensor], targets: Sequence[Target], samples: int
) -> dict[str, Tensor]:
    """Return the cross-entropy of the objectness and the L1 loss of the deltas, over the sampled anchors of a batch."""
    pairs = [flattened(logit.float(), delta.float()) for logit, delta in zip(logits, deltas, strict=True)]
    logit, delta = (torch.cat(parts, 1) for parts in zip(*pairs, strict=True))
    sizes = [(each.shape[2], each.shape[3]) for each in logits]
    boxes = torch.cat([anchors.of(level, size, delta) for level, size in enumerate(sizes)])
    objectness, regression = logit.new_zeros(()), logit.new_zeros(())
    number = 0
    for image, target in enumerate(targets):
        truth = target.trained[0].to(boxes.dtype)
        objects = assigned(ious(boxes, truth), positive=_POSITIVE, negative=_NEGATIVE, least=_NEGATIVE)
        positive, negative = sampled(objects, samples, _SHARE)
        chosen = torch.cat([positive, negative])
        wanted = torch.zeros(len(chosen), dtype=logit.dtype, device=logit.device)
        wanted[: len(positive)] = 1
        objectness = objectness + F.binary_cross_entropy_with_logits(logit[image, chosen], wanted, reduction="sum")
        due = encoded(boxes[positive], truth[objects[positive]])
        regression = regression + (delta[image, positive] - due).abs().sum()
        number += len(chosen)
    return {"objectness": objectness / max(1, number), "proposals": regression / max(1, number)}
