"""Measure the overhead of `irepdeploy train` over a bare loop, and whether the input pipeline keeps up.

A bare loop is a hand-written loop with the same settings: shuffle, crop, flip, normalize, forward, backward, clip,
step. Both train the same plain network on the same images, with alternating epochs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from irepdeploy.board.protocol import ratio, summary
from irepdeploy.console import ProgressDisplay
from irepdeploy.data import Augmentation, Loader
from irepdeploy.recipe import Recipe
from irepdeploy.runs.suite import SuiteReport, SuiteRequest
from irepdeploy.runtime.memory_format import channels_last

from ..execution.ranks import Ranks
from ..supernet.builders import build_net, load_data
from ..training.training import Training
from .rounds import measure_rounds, synchronized

__all__ = ["training_step"]

# Network, image size, batch size, batches per epoch, rounds.
_SCALES = {
    "smoke": ("vgg6", [1, 16, 16], 16, 2, 3),
    "small": ("resnet18_cifar", [3, 32, 32], 96, 3, 8),
    "paper": ("resnet18_cifar", [3, 32, 32], 96, 100, 20),
}
_PIPELINE_IMAGES = 20_000


def training_step(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Time of a training step of a plain network, compared with a bare loop and with the input pipeline alone."""
    request.refuse("training-step", "models", "runners", "seconds", "only")
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    name, shape, batch, batches, rounds = _SCALES[request.scale]
    recipe = _recipe(name, shape, batch, batches, request)
    task = display.task("training step", rounds)
    images = batch * batches
    with tempfile.TemporaryDirectory() as folder:
        training = Training(recipe, Path(folder), None, ranks=Ranks.alone(request.device))
        epochs = {
            "bare loop": _bare_loop(recipe, request),
            "irepdeploy": lambda: training.train_epoch(lambda note: None),
            "input pipeline": _pipeline(recipe, request),
        }
        calls = {name: synchronized(epoch, torch.device(request.device)) for name, epoch in epochs.items()}
        samples = measure_rounds(calls, rounds, task, seed=request.seed)
    per_second = {
        name: (_PIPELINE_IMAGES if name == "input pipeline" else images) / summary(times).median_ms * 1000
        for name, times in samples.items()
    }
    step = ratio(samples["irepdeploy"], samples["bare loop"], request.seed, paired=True)
    lead = per_second["input pipeline"] / per_second["irepdeploy"]
    interval = "" if step.low is None else f" [{step.low:.3f}, {step.high:.3f}]"
    figures = {
        "benchmark": "training step",
        "device": request.device,
        "network": name,
        "batch": batch,
        "images": {"bare loop": images, "irepdeploy": images, "input pipeline": _PIPELINE_IMAGES},
        "samples_ns": samples,
    }
    request.record(figures)
    return SuiteReport(
        title=f"Training of {name}, batch {batch}, {request.device}, {torch.get_num_threads()} thread(s)",
        columns=["what", "images/s", "time x bare loop"],
        rows=[
            ["bare loop", f"{per_second['bare loop']:.1f}", "1"],
            ["irepdeploy", f"{per_second['irepdeploy']:.1f}", f"{step.value:.3f}{interval}"],
            ["input pipeline alone", f"{per_second['input pipeline']:.0f}", "-"],
        ],
        notes=[
            f"The input pipeline (crop, flip, cutout, normalize) gives {lead:.0f} times the images of the training."
        ],
        figures={
            "step_over_bare_loop": step._asdict(),
            "pipeline_over_training": lead,
            "images_per_second": per_second,
        },
    )


def _recipe(name: str, shape: list[int], batch: int, batches: int, request: SuiteRequest) -> Recipe:
    weights = {"lr": 0.05, "momentum": 0.9, "weight_decay": 3e-4, "clip": 5.0}
    options = {"shape": shape, "classes": 10, "train": batch * batches, "val": 2, "test": 2}
    return Recipe.model_validate(
        {
            "net": {"name": name},
            "branches": "none",
            "data": {"name": "synthetic", "options": options},
            "seed": request.seed,
            "device": request.device,
            "search": {
                "population": 2,
                "warmup_epochs": 0,
                "evolutions": 1,
                "epochs_per_evolution": 1,
                "subnets_per_step": 1,
                "batch_size": batch,
                "weights": weights,
            },
            "train": {
                "epochs": 1,
                "batch_size": batch,
                "weights": weights,
                "schedule": "constant",
                "augment": {"crop": 4, "flip": True},
            },
        }
    )


def _bare_loop(recipe: Recipe, request: SuiteRequest) -> Callable[[], None]:
    data = load_data(recipe)
    net = channels_last(build_net(recipe, data)).to(request.device).train()
    settings = recipe.train.weights
    optimizer = torch.optim.SGD(
        net.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, foreach=True
    )
    images, labels = data.train.images[:].to(request.device), data.train.labels.to(request.device)
    pad, size = recipe.train.augment.crop, images.shape[-1]
    batch = recipe.train.batch_size
    limit = settings.clip
    assert limit is not None

    def epoch() -> None:
        order = torch.randperm(len(labels))
        for start in range(0, len(labels), batch):
            chosen = order[start : start + batch].to(request.device)
            row, column = torch.randint(0, 2 * pad + 1, (2,)).tolist()
            x = F.pad(images[chosen], (pad, pad, pad, pad))[:, :, row : row + size, column : column + size]
            x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(channels_last(x)), labels[chosen]).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), limit)
            optimizer.step()

    return epoch


def _pipeline(recipe: Recipe, request: SuiteRequest) -> Callable[[], None]:
    """Return a call that runs one epoch of batches, augmented as in the retraining on CIFAR-10, without training."""
    options = {**recipe.data.options, "train": _PIPELINE_IMAGES}
    data = load_data(recipe.model_copy(update={"data": recipe.data.model_copy(update={"options": options})}))
    augmentation = Augmentation(crop=4, flip=True, cutout=recipe.data.options["shape"][-1] // 2)
    generator = torch.Generator().manual_seed(request.seed)
    loader = Loader(data.train, recipe.train.batch_size, generator, augmentation, device=request.device)

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch
