"""Search for branches in your own training loop, with masks, gradients and scores from `ird.Supernet`.

    python examples/own_loop.py

The network and the data are those of segmentation.py.
"""

import torch
from segmentation import UNet, crops
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import irepdeploy as ird
from irepdeploy.testing import assert_equivalent


def main(evolutions=4, out="own-loop"):
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(*crops("train", 64)), batch_size=16, shuffle=True)
    val = crops("val", 40)

    supernet = ird.Supernet(UNet(), task="segmentation", budget="1/2", population=8, subnets_per_step=2)
    weights = torch.optim.SGD(supernet.weights(), lr=0.05, momentum=0.9)
    arch = torch.optim.Adam(supernet.arch_parameters(), lr=1e-3)
    population = supernet.first()
    for evolution in range(evolutions):
        for images, levels in loader:
            loss = supernet.accumulate(images, levels, supernet.draw(population))  # replaces .grad
            weights.step()
            arch.step()
        fitness = supernet.score(population, val)
        best = supernet.best(population, fitness)
        print(
            f"evolution {evolution}: loss {loss:.3f}, mIoU of the best {max(fitness).value:.1%}, {best.count} branches"
        )
        population = supernet.next(population, fitness)

    # Train with these branches in the same way; fused, it is the plain network again.
    net = ird.insert_branches(UNet(), best)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(evolutions):
        for images, levels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), levels).backward()
            optimizer.step()
    net.eval()
    assert ird.compare(net, ird.fuse(net), val[0]).ok
    ird.export_model(net, out=out, inputs=val[0][:4].numpy())
    assert_equivalent(net, f"{out}/model.onnx", inputs=val[0][:4].numpy())
    return best


if __name__ == "__main__":
    main()
