"""Search for branches with `ird.Supernet` in your own Lightning module, then train, fuse, export and verify.

    pip install '.[examples]'    # from the clone
    python examples/lightning_loop.py

The network and the data are those of segmentation.py.
"""

import pytorch_lightning as pl
import torch
from segmentation import UNet, crops
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import irepdeploy as ird
from irepdeploy.testing import assert_equivalent


class Search(pl.LightningModule):
    """Each epoch is one evolution: the population is trained, scored, and replaced by the next one."""

    def __init__(self, net, val, **settings):
        super().__init__()
        self.automatic_optimization = False
        self.supernet = ird.Supernet(net, task="segmentation", **settings)
        self.model = self.supernet.model  # so that Lightning moves and saves it
        self.population = self.supernet.first()
        self.val = val
        self.best = None

    def configure_optimizers(self):
        weights = torch.optim.SGD(self.supernet.weights(), lr=0.05, momentum=0.9)
        return weights, torch.optim.Adam(self.supernet.arch_parameters(), lr=1e-3)

    def training_step(self, batch, index):
        loss = self.supernet.accumulate(*batch, self.supernet.draw(self.population))  # replaces .grad
        for optimizer in self.optimizers():
            optimizer.step()
        self.log("loss", loss, batch_size=len(batch[0]))

    def on_train_epoch_end(self):
        fitness = self.supernet.score(self.population, self.val)
        self.best = self.supernet.best(self.population, fitness)
        self.log("mIoU", max(fitness).value)
        self.population = self.supernet.next(self.population, fitness)


class Training(pl.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def configure_optimizers(self):
        return torch.optim.AdamW(self.net.parameters(), lr=3e-3)

    def training_step(self, batch, index):
        images, levels = batch
        return nn.functional.cross_entropy(self.net(images), levels)


def main(evolutions=4, out="lightning"):
    pl.seed_everything(0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    loader = DataLoader(TensorDataset(*crops("train", 64)), batch_size=16, shuffle=True)
    val = crops("val", 40)
    search = Search(UNet(), val, budget="1/2", population=8, subnets_per_step=2)
    trainer = pl.Trainer(max_epochs=evolutions, log_every_n_steps=1, **quiet)
    trainer.fit(search, loader)
    print(f"{search.best.count} branches, mIoU by shared weights {trainer.callback_metrics['mIoU']:.1%}")

    training = Training(ird.insert_branches(UNet(), search.best))
    pl.Trainer(max_epochs=evolutions, log_every_n_steps=1, **quiet).fit(training, loader)
    net = training.net.eval()
    assert ird.compare(net, ird.fuse(net), val[0]).ok
    ird.export_model(net, out=out, inputs=val[0][:4].numpy())
    assert_equivalent(net, f"{out}/model.onnx", inputs=val[0][:4].numpy())
    return search.best


if __name__ == "__main__":
    main()
