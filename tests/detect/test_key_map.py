"""State dicts under the names of torchvision and of MMDetection fit our detectors, by name and shape."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from irepdeploy.detect.key_map import our_names
from irepdeploy.network.nets import build_plain
from irepdeploy.network.state_dict import fitted

# Parts other than the backbone in the files that both publish.
TORCHVISION = {
    **{f"backbone.fpn.inner_blocks.{level}.0.weight": (256, 256 * 2**level, 1, 1) for level in range(4)},
    **{f"backbone.fpn.layer_blocks.{level}.0.weight": (256, 256, 3, 3) for level in range(4)},
    **{f"backbone.fpn.{part}_blocks.{level}.0.bias": (256,) for part in ("inner", "layer") for level in range(4)},
    "rpn.head.conv.0.0.weight": (256, 256, 3, 3),
    "rpn.head.conv.0.0.bias": (256,),
    "rpn.head.cls_logits.weight": (3, 256, 1, 1),
    "rpn.head.cls_logits.bias": (3,),
    "rpn.head.bbox_pred.weight": (12, 256, 1, 1),
    "rpn.head.bbox_pred.bias": (12,),
    "roi_heads.box_head.fc6.weight": (1024, 12544),
    "roi_heads.box_head.fc6.bias": (1024,),
    "roi_heads.box_head.fc7.weight": (1024, 1024),
    "roi_heads.box_head.fc7.bias": (1024,),
    "roi_heads.box_predictor.cls_score.weight": (91, 1024),
    "roi_heads.box_predictor.cls_score.bias": (91,),
    "roi_heads.box_predictor.bbox_pred.weight": (364, 1024),
    "roi_heads.box_predictor.bbox_pred.bias": (364,),
}
MMDETECTION = {
    "faster_rcnn_resnet50_fpn": {
        **{f"neck.lateral_convs.{level}.conv.weight": (256, 256 * 2**level, 1, 1) for level in range(4)},
        **{f"neck.fpn_convs.{level}.conv.weight": (256, 256, 3, 3) for level in range(4)},
        **{f"neck.{part}_convs.{level}.conv.bias": (256,) for part in ("lateral", "fpn") for level in range(4)},
        "rpn_head.rpn_conv.weight": (256, 256, 3, 3),
        "rpn_head.rpn_conv.bias": (256,),
        "rpn_head.rpn_cls.weight": (3, 256, 1, 1),
        "rpn_head.rpn_cls.bias": (3,),
        "rpn_head.rpn_reg.weight": (12, 256, 1, 1),
        "rpn_head.rpn_reg.bias": (12,),
        "roi_head.bbox_head.fc_cls.weight": (81, 1024),
        "roi_head.bbox_head.fc_cls.bias": (81,),
        "roi_head.bbox_head.fc_reg.weight": (320, 1024),
        "roi_head.bbox_head.fc_reg.bias": (320,),
        "roi_head.bbox_head.shared_fcs.0.weight": (1024, 12544),
        "roi_head.bbox_head.shared_fcs.0.bias": (1024,),
        "roi_head.bbox_head.shared_fcs.1.weight": (1024, 1024),
        "roi_head.bbox_head.shared_fcs.1.bias": (1024,),
    },
    "centernet_dcn_resnet18": {
        **{
            f"neck.deconv_layers.{2 * index}.conv.{name}": shape
            for index, (before, after) in enumerate([(512, 256), (256, 128), (128, 64)])
            for name, shape in (
                ("weight", (after, before, 3, 3)),
                ("conv_offset.weight", (27, before, 3, 3)),
                ("conv_offset.bias", (27,)),
            )
        },
        **{f"neck.deconv_layers.{2 * i + 1}.conv.weight": (w, w, 4, 4) for i, w in enumerate((256, 128, 64))},
        **{
            f"neck.deconv_layers.{index}.bn.{name}": (256 // 2 ** (index // 2),)
            for index in range(6)
            for name in ("weight", "bias", "running_mean", "running_var")
        },
        **{
            f"bbox_head.{head}_head.{index}.{name}": shape
            for head, outputs in (("heatmap", 80), ("wh", 2), ("offset", 2))
            for index, name, shape in (
                (0, "weight", (64, 64, 3, 3)),
                (0, "bias", (64,)),
                (2, "weight", (outputs, 64, 1, 1)),
                (2, "bias", (outputs,)),
            )
        },
    },
}
MMDETECTION["centernet_resnet18"] = {
    name: shape for name, shape in MMDETECTION["centernet_dcn_resnet18"].items() if "conv_offset" not in name
}


def shapes(state: dict[str, Tensor], *, but: str = "num_batches_tracked") -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith(but)}


def backbone_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in net.state_dict().items() if name.startswith("backbone.")}


@pytest.mark.parametrize("name", MMDETECTION)
def test_names_of_mmdetection_are_ours(name: str, meta: None) -> None:
    net = build_plain(name)
    beside = {key: shape for key, shape in shapes(net.state_dict()).items() if not key.startswith("backbone.")}
    assert beside == MMDETECTION[name]
    # Its ResNets have torchvision's names.
    kinds = ("conv1.weight", "bn1.running_var", "layer2.0.downsample.0.weight", "layer4.1.bn2.bias")
    assert all(f"backbone.{kind}" in net.state_dict() for kind in kinds)


def test_those_of_torchvision_become_ours(meta: None) -> None:
    net = build_plain("faster_rcnn_resnet50_fpn", num_classes=90)
    state = {name: torch.empty(shape) for name, shape in TORCHVISION.items()}
    state |= {name.replace("backbone.", "backbone.body.", 1): tensor for name, tensor in backbone_of(net).items()}
    for prefix in ("", "module."):
        found, _ = fitted(net, {prefix + name: tensor for name, tensor in state.items()})
        assert shapes(found) == shapes(net.state_dict())


def test_older_files_of_torchvision_have_shorter_names() -> None:
    old = {"backbone.fpn.inner_blocks.2.weight": torch.zeros(1), "rpn.head.conv.weight": torch.zeros(1)}
    found = our_names({**old, "roi_heads.box_predictor.cls_score.bias": torch.zeros(3)})
    assert {"neck.lateral_convs.2.conv.weight", "rpn_head.rpn_conv.weight"} <= set(found)


def test_the_background_goes_to_the_end() -> None:
    scores, boxes = torch.arange(4.0), torch.arange(16.0)
    names = ("roi_heads.box_predictor.cls_score.bias", "roi_heads.box_predictor.bbox_pred.bias")
    found = our_names(dict(zip(names, (scores, boxes), strict=True)))
    assert found["roi_head.bbox_head.fc_cls.bias"].tolist() == [1, 2, 3, 0]
    assert found["roi_head.bbox_head.fc_reg.bias"].tolist() == list(range(4, 16))


def test_other_state_dicts_stay() -> None:
    state = {"backbone.body.conv1.weight": torch.zeros(1)}
    assert our_names(state) == state
