"""Conversion of a detector's weight names from other libraries. MMDetection's names are the same as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["our_names"]

# Names in torchvision's Faster R-CNN with a feature pyramid, from version 0.13 on and before.
_TORCHVISION = (
    (r"backbone\.body\.", "backbone."),
    (r"backbone\.fpn\.inner_blocks\.(\d+)\.(?:0\.)?", r"neck.lateral_convs.\1.conv."),
    (r"backbone\.fpn\.layer_blocks\.(\d+)\.(?:0\.)?", r"neck.fpn_convs.\1.conv."),
    (r"rpn\.head\.conv\.(?:0\.0\.)?", "rpn_head.rpn_conv."),
    (r"rpn\.head\.cls_logits\.", "rpn_head.rpn_cls."),
    (r"rpn\.head\.bbox_pred\.", "rpn_head.rpn_reg."),
    (r"roi_heads\.box_head\.fc6\.", "roi_head.bbox_head.shared_fcs.0."),
    (r"roi_heads\.box_head\.fc7\.", "roi_head.bbox_head.shared_fcs.1."),
    (r"roi_heads\.box_predictor\.cls_score\.", "roi_head.bbox_head.fc_cls."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "roi_head.bbox_head.fc_reg."),
)


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of torchvision's Faster R-CNN to our names; return any other state dict unchanged.

    Torchvision's background is the first class and has boxes; ours is the last class and has none. Torchvision's
    detector was trained with ``rounded=True, aligned=False`` (see `FasterRCNN`), and its 90 classes are COCO ids.
    """
    if not any(".box_predictor." in name for name in state):
        return dict(state)
    found = {}
    for name, tensor in state.items():
        ours = name.removeprefix("module.")
        for pattern, replacement in _TORCHVISION:
            ours = re.sub(f"^{pattern}", replacement, ours)
        if "fc_cls" in ours:
            tensor = torch.cat([tensor[1:], tensor[:1]])
        elif "fc_reg" in ours:
            tensor = tensor[4:]
        found[ours] = tensor
    return found
