"""Search, train, fuse, export and verify a small U-Net on dense prediction.

    pip install '.[examples]'    # from the clone
    python examples/segmentation.py

The network classifies every pixel of a noisy crop into four brightness levels of the clean crop. Crops are taken from
the photographs of scikit-image, or from the two of scikit-learn. Training, validation and test use separate columns of
each picture, so no pixel is in two of them. Since all share the same few pictures, the scores do not generalize.
"""

import numpy as np
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.testing import assert_equivalent

SIDE = 16
# Share of the width of each picture for each set.
COLUMNS = {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}


class UNet(nn.Module):
    def __init__(self, width=8, classes=4):
        super().__init__()
        self.down = nn.Sequential(self.block(3, width), self.block(width, width))
        self.middle = nn.Sequential(nn.MaxPool2d(2), self.block(width, 2 * width), nn.Upsample(scale_factor=2))
        self.up = self.block(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def block(inside, outside):
        conv = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU())

    def forward(self, x):
        fine = self.down(x)
        return self.head(self.up(torch.cat([fine, self.middle(fine)], 1)))


def pictures():
    """Return photographs as uint8 arrays (height, width, 3)."""
    try:
        from skimage import data
    except ImportError:
        from sklearn.datasets import load_sample_images

        return load_sample_images().images
    return [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]


def cut(part, count, seed):
    """Return crops (count, 3, 16, 16) from the columns of a part: every third pixel of 48x48 squares."""
    random, found = np.random.default_rng(seed), []
    photographs = pictures()
    for index in range(count):
        picture = photographs[index % len(photographs)]
        first, last = (int(share * picture.shape[1]) for share in COLUMNS[part])
        top = int(random.integers(picture.shape[0] - 3 * SIDE + 1))
        left = int(random.integers(first, last - 3 * SIDE + 1))
        found.append(picture[top : top + 3 * SIDE : 3, left : left + 3 * SIDE : 3])
    return (np.stack(found).astype(np.float32).transpose(0, 3, 1, 2) / 255 - 0.45) / 0.25


def crops(part, count, seed=0):
    """Return noisy crops, and the brightness level of each pixel of the clean crops."""
    clean = torch.from_numpy(cut(part, count, seed))
    levels = (clean.mean(1) > torch.tensor([-0.7, 0.0, 0.7]).view(3, 1, 1, 1)).sum(0)
    return clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)), levels


def main(evolutions=4, out="segmentation"):
    data = {"train": crops("train", 64), "val": crops("val", 40), "task": "segmentation"}
    few = {"population": 8, "warmup_epochs": 1, "evolutions": evolutions, "batch_size": 16}
    found = ird.search(UNet(), **data, budget="1/2", **few, out=f"{out}/search")
    print(f"{found.best.count} branches, mIoU by shared weights {found.fitness.value:.1%}")
    done = ird.train(
        UNet(),
        **data,
        test=crops("test", 40),
        architecture=found.best,
        epochs=evolutions,
        batch_size=16,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
        out=f"{out}/train",
    )
    test = done.scores["test"]
    print(f"test mIoU {test.figures['mIoU']:.1%} [{test.low:.1%}, {test.high:.1%}], {test.method}")
    images, _ = crops("test", 4, seed=1)
    assert ird.compare(done.model, ird.fuse(done.model), images).ok
    ird.export_model(done.model, out=f"{out}/onnx")
    assert_equivalent(done.model, f"{out}/onnx/model.onnx")
    return found, done


if __name__ == "__main__":
    main()
