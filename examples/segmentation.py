"""Search, train, fuse, export and verify a small U-Net on dense prediction.

    python examples/segmentation.py

Every pixel of a noisy crop gets one of four levels of brightness of the clean one. All crops are of the same two
photographs, so that the scores say nothing about other pictures.
"""

import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.data.photographs import photographs
from irepdeploy.testing import assert_equivalent


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


def crops(count, seed):
    clean = torch.from_numpy(photographs((3, 16, 16), count, seed))
    levels = (clean.mean(1) > torch.tensor([-0.7, 0.0, 0.7]).view(3, 1, 1, 1)).sum(0)
    return clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)), levels


def main(evolutions=4, out="segmentation"):
    data = {"train": crops(64, seed=0), "val": crops(40, seed=1), "task": "segmentation"}
    few = {"population": 8, "warmup_epochs": 1, "evolutions": evolutions, "batch_size": 16}
    found = ird.search(UNet(), **data, budget="1/2", **few, out=f"{out}/search")
    print(f"{found.best.count} branches, mIoU by shared weights {found.fitness.value:.1%}")
    done = ird.train(
        UNet(),
        **data,
        test=crops(40, seed=2),
        architecture=found.best,
        epochs=evolutions,
        batch_size=16,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
        out=f"{out}/train",
    )
    test = done.scores["test"]
    print(f"test mIoU {test.figures['mIoU']:.1%} [{test.low:.1%}, {test.high:.1%}], {test.method}")
    images, _ = crops(4, seed=3)
    assert ird.compare(done.model, ird.fuse(done.model), images).ok
    ird.export_model(done.model, out=f"{out}/onnx")
    assert_equivalent(done.model, f"{out}/onnx/model.onnx")
    return found, done


if __name__ == "__main__":
    main()
