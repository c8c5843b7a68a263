"""Benchmark the input pipeline on Fashion-MNIST against training of a compact network.

Run ``python -m irepdeploy.bench.tools.input_pipeline [FILE.jsonl]``. It takes a minute on one thread and needs the
Debian package dataset-fashion-mnist. Training is an epoch of the plain network compact6 with the settings of the recipe
fashion_mnist; the other rows only load batches of the same size. All are interleaved.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from irepdeploy.board.protocol import PROTOCOL_VERSION, ratio, summary
from irepdeploy.console import table
from irepdeploy.data import Augmentation, Loader
from irepdeploy.recipe import Recipe, load_recipe
from irepdeploy.search.execution.ranks import Ranks
from irepdeploy.search.execution.shipped import recipe_path
from irepdeploy.search.supernet.builders import load_data
from irepdeploy.search.training.training import Training

from .harness import interval_text, keep_line, samples_of

__all__ = ["measure_pipelines"]

_ROUNDS = 10
_TRAINED, _LOADED = 1280, 10_240
_OVERRIDES = ("branches=none", f"data.options.train={_TRAINED}", "threads=1", "device=cpu")
_TRAINING = "training"
PIPELINES = {
    "crop, flip": Augmentation(crop=2, flip=True),
    "area, flip, RandAugment, erasing, mixup, CutMix": Augmentation(
        area=0.25, flip=True, randaugment=2, brightness=0.4, contrast=0.4, erase=0.25, mixup=0.2, cutmix=1.0
    ),
}


def measure_pipelines(recipe: Recipe, rounds: int = _ROUNDS, loaded: int = _LOADED) -> dict[str, list[int]]:
    """Return the times in ns of an epoch of training, and of loading `loaded` images in each way."""
    options = {**recipe.data.options, "train": loaded}
    data = load_data(recipe.model_copy(update={"data": recipe.data.model_copy(update={"options": options})}))

    def loading(augmentation: Augmentation) -> Callable[[], None]:
        generator = torch.Generator().manual_seed(recipe.seed)
        size = recipe.train.batch_size
        loader = Loader(data.train, size, generator, augmentation, classes=len(data.classes))

        def epoch() -> None:
            for _ in loader:
                pass

        return epoch

    with tempfile.TemporaryDirectory() as folder:
        training = Training(recipe, Path(folder), None, ranks=Ranks.alone("cpu"))
        calls = {_TRAINING: lambda: training.train_epoch(lambda note: None)}
        return samples_of({**calls, **{name: loading(each) for name, each in PIPELINES.items()}}, rounds)


def main(record: str | None = None) -> None:
    """Measure, print a table, and append the raw samples to `record`."""
    torch.set_num_threads(1)
    samples = measure_pipelines(load_recipe(recipe_path("fashion_mnist"), _OVERRIDES))
    images = {name: _TRAINED if name == _TRAINING else _LOADED for name in samples}
    rows = []
    for name, times in samples.items():
        # Scale to the same number of images.
        found = ratio([time * images[name] for time in samples[_TRAINING]], [time * _TRAINED for time in times], seed=0)
        rate = images[name] / summary(times).median_ms * 1000
        rows.append([name, f"{rate:,.0f}", f"{found.value:.1f}", interval_text(found)])
    table("Input on Fashion-MNIST, compact6", ["what", "images/s", "x training", "95 % interval"], rows)
    keep_line(record, "input pipeline", protocol_version=PROTOCOL_VERSION, images=images, samples_ns=samples)


if __name__ == "__main__":
    main(*sys.argv[1:2])
