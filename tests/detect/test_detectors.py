"""Detectors of the registry: published parameter counts, branches and fusing, losses, detections."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.detector import Detector
from irepdeploy.detect.faster_rcnn import FasterRCNN
from irepdeploy.network.nets import build, build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.profiling.counts import count
from support.targets import some_targets

# Parameters of the whole and of the backbone.
COUNTS = {
    "faster_rcnn_resnet50_fpn": (41_753_056, 23_508_032),
    "irep_faster_rcnn_resnet50_fpn": (45_580_706, 27_335_682),
    "dyrep_faster_rcnn_resnet50_fpn": (64_470_959, 46_225_935),
    "centernet_resnet18": (14_219_092, 11_176_512),
    "centernet_dcn_resnet18": (14_436_901, 11_176_512),
    "irep_centernet_resnet18": (21_400_215, 18_357_635),
    "irep_centernet_dcn_resnet18": (21_618_024, 18_357_635),
    "centernet_vgg6": (139_422, 39_600),
    "faster_rcnn_vgg6_fpn": (235_186, 67_376),
}


def params(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_they_have_the_published_counts(name: str, meta: None) -> None:
    net = build(name)
    assert isinstance(net, Detector)
    assert (params(net), params(net.backbone)) == COUNTS[name]


def test_what_others_count(meta: None) -> None:
    """MMDetection counts trained parameters, torchvision 91 classes without the affine part of normalizations."""
    net = build("faster_rcnn_resnet50_fpn")
    frozen = sum(params(module) for module in net.backbone.first(1))
    assert params(net) - frozen == 41_527_712
    larger = build("faster_rcnn_resnet50_fpn", num_classes=90)
    affine = sum(params(module) for module in larger.modules() if isinstance(module, nn.BatchNorm2d))
    # Its boxes have a background too.
    assert params(larger) - affine + 4 * 1025 == 41_755_286


def test_parts_of_the_large_one(meta: None) -> None:
    net = build("faster_rcnn_resnet50_fpn")
    assert (params(net.neck), params(net.rpn_head), params(net.roi_head)) == (3_344_384, 593_935, 14_306_705)


@pytest.mark.parametrize(
    ("name", "shape", "billions"),
    [
        ("centernet_resnet18", (3, 512, 512), 13.09),
        ("centernet_dcn_resnet18", (3, 512, 512), 13.31),
        ("faster_rcnn_resnet50_fpn", (3, 800, 1280), 206.33),
    ],
)
def test_they_cost_what_is_published(name: str, shape: tuple[int, int, int], billions: float, meta: None) -> None:
    """MMDetection prints 207 for the last, with normalizations."""
    assert round(count(build(name, input_shape=shape), shape).macs / 1e9, 2) == billions


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(3))


def test_fused_they_find_the_same(small: Detector, images: Tensor) -> None:
    torch.manual_seed(1)
    inserted = ird.insert_branches(small, "ireps", where="backbone")
    with_branches = randomize_statistics(inserted, seed=5).eval()
    fused = ird.fuse(with_branches)
    # Every normalization of the backbone found its convolution.
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.backbone.modules())
    with torch.no_grad():
        pairs = [small.decode(*net(images)) for net in (with_branches, fused)]
    assert pairs[0][0].tolist() == pairs[1][0].tolist() and int(pairs[0][0].sum()) > 0
    for one, other in zip(*(Detections.of_batch(*pair) for pair in pairs), strict=True):
        assert torch.equal(one.labels, other.labels)
        assert torch.allclose(one.boxes, other.boxes, atol=1e-3) and torch.allclose(one.scores, other.scores, atol=1e-5)


def test_branches_that_start_at_zero_change_nothing(small: Detector, images: Tensor) -> None:
    silent = ird.insert_branches(small, "acnet", where="backbone", preserve=True).eval()
    with torch.no_grad():
        for before, after in zip(small(images), silent(images), strict=True):
            assert torch.allclose(before, after, atol=1e-6)


def test_losses_reach_every_parameter(small: Detector, images: Tensor) -> None:
    parts = small.train().loss(images, some_targets())
    assert all(bool(torch.isfinite(part)) and part.shape == () for part in parts.values())
    sum(parts.values(), torch.zeros(())).backward()
    without = [name for name, parameter in small.named_parameters() if parameter.grad is None]
    assert not without


def test_images_without_objects_train_too(small: Detector, images: Tensor) -> None:
    none = some_targets()[2:]
    parts = small.train().loss(images[:1], none)
    total = sum(parts.values(), torch.zeros(()))
    total.backward()
    assert bool(torch.isfinite(total)) and float(total.detach()) > 0


def test_detections_do_not_depend_on_the_batch(small: Detector, images: Tensor) -> None:
    with torch.no_grad():
        together = Detections.of_batch(*small.decode(*small(images)))
        for index, due in enumerate(together):
            (alone,) = Detections.of_batch(*small.decode(*small(images[index : index + 1])))
            assert torch.equal(alone.labels, due.labels) and torch.allclose(alone.boxes, due.boxes, atol=1e-3)


def test_rows_behind_the_last_detection_are_zero() -> None:
    torch.manual_seed(0)
    net = build_plain("faster_rcnn_vgg6_fpn").eval()
    assert isinstance(net, FasterRCNN)
    rois, boxes = torch.rand(3, 60, 4), torch.rand(3, 60, 10, 4).cumsum(3) * 20
    scores = torch.rand(3, 60, 10) * torch.tensor([0.06, 0.052, 0.04])[:, None, None]
    number, boxes, scores, classes = net.decode(rois, boxes, scores)
    assert number.dtype == classes.dtype == torch.int32
    counts = number[:, 0].tolist()
    assert 0 < counts[0] <= 100 and counts[2] == 0
    for row, found in enumerate(counts):
        assert not boxes[row, found:].any() and not scores[row, found:].any() and not classes[row, found:].any()
        assert bool((scores[row, :found] > 0.05).all())
        assert scores[row].tolist() == sorted(scores[row].tolist(), reverse=True)


def test_nothing_found_is_no_error(small: Detector, images: Tensor) -> None:
    small.score_threshold = 2.0
    with torch.no_grad():
        number, boxes, *_ = small.decode(*small(images))
    assert number.tolist() == [[0], [0], [0]] and not boxes.any()


@pytest.mark.parametrize("name", ["centernet_vgg6", "faster_rcnn_vgg6_fpn"])
def test_a_checkpoint_gives_the_detector_again(name: str, images: Tensor, tmp_path: object) -> None:
    torch.manual_seed(2)
    net = randomize_statistics(ird.insert_branches(build_plain(name, num_classes=4), "acnet", where="backbone")).eval()
    path = f"{tmp_path}/net.pt"
    ird.save(net, path)
    again = ird.load(path).eval()
    with torch.no_grad():
        assert all(torch.equal(*pair) for pair in zip(net(images), again(images), strict=True))
