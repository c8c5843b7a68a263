"""Small detectors."""

from __future__ import annotations

import pytest
import torch

from irepdeploy.detect.detector import Detector
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from support.meta import meta

__all__ = ["meta", "small"]

SMALL = ("centernet_vgg6", "faster_rcnn_vgg6_fpn")


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest) -> Detector:
    """A detector with random statistics, in eval mode."""
    torch.manual_seed(0)
    net = randomize_statistics(build_plain(request.param)).eval()
    assert isinstance(net, Detector)
    return net
