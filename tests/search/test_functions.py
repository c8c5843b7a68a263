"""`ird.search` and `ird.train` with user-defined networks, data and tasks."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import irepdeploy as ird
from irepdeploy.data import Split, given
from irepdeploy.errors import InputError, ModelError, RecipeError
from irepdeploy.runs.journal import Event
from irepdeploy.runs.result import TrainingResult
from irepdeploy.search.result import SearchResult
from irepdeploy.tasks import Regression, Segmentation
from support.foreign import DictSamples, Samples, TinyNet, maps, pairs
from support.tiny import JournalOf, Stop

FEW: dict[str, Any] = {
    "population": 4,
    "evolutions": 2,
    "warmup_epochs": 1,
    "subnets_per_step": 2,
    "batch_size": 8,
    "budget": "1/2",
    "threads": 1,
}
TRAIN: dict[str, Any] = {"epochs": 3, "batch_size": 8, "threads": 1}


def net(outputs: int = 3, **options: Any) -> TinyNet:
    torch.manual_seed(1)
    return TinyNet(outputs, **options)


def search(out: Path, **changes: Any) -> SearchResult:
    given: dict[str, Any] = {"train": maps(16), "val": maps(10, 1), "task": "segmentation", **FEW, **changes}
    return ird.search(given.pop("net", None) or net(), out=out, **given)


def train(out: Path, **changes: Any) -> Any:
    given: dict[str, Any] = {"train": maps(16), "val": maps(10, 1), "task": "segmentation", **TRAIN, **changes}
    return ird.train(given.pop("net", None) or net(), out=out, **given)


class Odd(TinyNet):
    """A network that is not in the registry."""

    def __init__(self, way: str) -> None:
        super().__init__(pool=True)
        self.way = way
        self.again = self.body if way == "a shared module" else nn.Identity()
        if way == "a layer that is not called":
            self.unused = nn.Conv2d(1, 4, 3)
        if way == "cumulative statistics":
            self.body[1].momentum = None
        if way == "layers of two dtypes":
            self.head.double()

    def forward(self, x: Tensor) -> Any:
        x = self.again(self.body(self.stem(x)))
        if self.way == "a decision by values" and float(x.detach().sum()) > 1e9:
            x = -x
        return self.head(x.to(self.head.weight.dtype)).mean((2, 3))


ODD = ["a shared module", "a layer that is not called", "cumulative statistics", "a decision by values",
       "layers of two dtypes"]  # fmt: skip


@pytest.mark.parametrize("way", ODD)
def test_networks_that_are_odd_in_one_way(way: str, tmp_path: Path) -> None:
    data: dict[str, Any] = {"train": pairs(16), "val": pairs(10, 1), "task": "classification"}
    found = search(tmp_path / "s", net=Odd(way), **data)
    done = train(tmp_path / "t", net=Odd(way), architecture=found.best, **data, epochs=1)
    plain = ird.fuse(done.model)
    images, labels = pairs(10, 1)
    right = (plain(images).argmax(1) == labels).double().mean()
    assert done.scores["val"].figures["accuracy"] == pytest.approx(float(right))
    assert ird.compare(done.model, plain, images).ok
    again = ird.load(tmp_path / "t" / "best.pt", model=lambda: nn.DataParallel(Odd(way)))
    assert ird.compare(done.model, again, images).max_rel_error == 0


def test_a_network_without_weights_or_that_cannot_be_copied_is_refused(tmp_path: Path) -> None:
    class NoCopy(TinyNet):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("a lock")

    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))
    for call in (search, train):
        for each in (lazy, lambda: lazy):
            with pytest.raises(ModelError, match="lazy layer has no weights"):
                call(tmp_path / "o", net=each)
        with pytest.raises(ModelError, match="cannot be copied: a lock"):
            call(tmp_path / "o", net=NoCopy())
    assert not list(tmp_path.iterdir())


def test_a_search_of_a_users_network(tmp_path: Path, journal_of: JournalOf) -> None:
    mine, seen = net(), list[Event]()
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    found = search(tmp_path, net=mine, callbacks=[seen.append])
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())
    assert not hasattr(mine, "irepdeploy_origin")
    # Two layers of nine and eight possible branches: the first changes its channels, and has no identity.
    assert found.best.layers == ("stem.0", "body.0") and 0 < found.best.count <= 8
    assert found.journal.start.metric is not None and found.journal.start.metric.name == "mIoU"
    assert found.journal.start.recipe["net"]["name"] == "TinyNet"
    assert [event.event for event in seen] == [line["event"] for line in journal_of(tmp_path)]
    assert found.pareto.metric == found.figures.metric == found.journal.start.metric
    assert found.figures.val_accuracy == found.fitness.value == found.journal.evolutions[-1].best
    ird.insert_branches(mine, found.best)


def test_data_of_any_kind_leads_to_the_same_search(tmp_path: Path) -> None:
    stream = search(tmp_path / "stream", train=Samples(maps(16)), val=DataLoader(DictSamples(maps(10, 1)), 4))
    as_dict = search(tmp_path / "dict", train=DictSamples(maps(16)), val=maps(10, 1), net=net(as_dict=True))
    assert stream.population == as_dict.population and stream.fitnesses == as_dict.fitnesses


@pytest.mark.parametrize("kind", ["map-style", "loader"])
def test_an_interrupted_search_of_a_stream_ends_the_same(kind: str, tmp_path: Path, journal_of: JournalOf) -> None:
    def data() -> Any:
        samples = Samples(maps(16))
        return samples if kind == "map-style" else DataLoader(samples, 8, shuffle=True)

    whole = search(tmp_path / "whole", train=data())

    def stop(event: Event) -> None:
        if event.event == "evolution":
            raise Stop

    with pytest.raises(Stop):
        search(tmp_path / "half", train=data(), callbacks=[stop])
    torch.rand(9)
    resumed = search(tmp_path / "half", train=data(), resume=True)
    assert resumed.population == whole.population and resumed.fitnesses == whole.fitnesses
    assert journal_of(tmp_path / "half") == journal_of(tmp_path / "whole")


def test_validation_that_does_not_fit_is_read_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = DataLoader(Samples(maps(10, 1)), 4)
    held = search(tmp_path / "held", val=loader)
    monkeypatch.setattr(given, "memory_bytes", lambda: 100)
    streamed = search(tmp_path / "streamed", val=loader)
    assert streamed.population == held.population
    assert np.allclose([each.value for each in streamed.fitnesses], [each.value for each in held.fitnesses])
    with pytest.raises(InputError, match="racing needs all images of val in memory"):
        search(tmp_path / "raced", val=loader, evaluation={"racing": {"share": 0.3}})
    assert not (tmp_path / "raced").exists()


def test_races_by_another_metric_and_multi_branch_scores(tmp_path: Path) -> None:
    raced = search(tmp_path / "raced", val=maps(40, 1), evaluation={"racing": {"share": 0.25, "error": 0.5}})
    assert raced.journal.evolutions[0].race is not None
    masks = search(tmp_path / "masks", evaluation={"mode": "multi-branch"})
    assert masks.population == search(tmp_path / "fused").population


def test_other_tasks_and_where(tmp_path: Path) -> None:
    images, labels = pairs(16)
    found = search(tmp_path / "c", net=net(pool=True), train=(images, labels), val=pairs(10, 1), task="classification")
    assert found.figures.metric is None and "metric" not in json.loads((tmp_path / "c" / "result.json").read_text())
    numbers = [(x, x.mean((2, 3))[:, 0]) for x in (images, pairs(10, 1)[0])]
    found = search(
        tmp_path / "r", net=net(1, pool=True), train=numbers[0], val=numbers[1], task=Regression("l1"), where="body.*"
    )
    assert found.best.layers == ("body.0",)
    assert found.figures.metric is not None and found.figures.metric.name == "R2"
    # A score below 0 is no fault of a file.
    assert min(each.value for each in found.fitnesses) < 0
    assert found.journal.evolutions[0].mean <= found.journal.evolutions[0].best


def test_a_training_of_a_users_network_and_its_way_to_onnx(tmp_path: Path) -> None:
    found = search(tmp_path / "search")
    done = train(tmp_path / "train", architecture=found.best, test=Samples(maps(12, 2)))
    assert done.result.branches == found.best.count
    assert done.result == TrainingResult.read(tmp_path / "train" / "result.json")
    assert set(done.scores) == {"val", "test"} and done.scores["test"].samples == 12
    test = done.scores["test"]
    assert test.low is not None and test.high is not None
    assert test.low <= test.figures["mIoU"] == done.result.test_accuracy <= test.high
    plain = ird.fuse(done.model)
    images, labels = maps(12, 2)
    rows = Segmentation().statistics(plain(images), labels).double().sum(0).detach().numpy()
    assert Segmentation().score(rows, 12) == pytest.approx(done.result.test_accuracy, abs=1e-3)
    certificate = ird.export_model(done.model, tmp_path / "onnx", simplify=False)
    assert (tmp_path / "onnx" / "model.onnx").exists() and certificate.failure is None
    by_file = train(tmp_path / "again", architecture=tmp_path / "search" / "best.json")
    assert by_file.result.val_accuracy == done.result.val_accuracy and by_file.result.test_accuracy is None


@pytest.mark.parametrize("kind", [pytest.param("own optimizer", marks=pytest.mark.slow), "own scheduler"])
def test_an_optimizer_of_ones_own_resumes(kind: str, tmp_path: Path, journal_of: JournalOf) -> None:
    rates: list[float] = []

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    options: dict[str, Any] = {"optimizer": lambda parameters: Watched(parameters, lr=1e-2)}
    if kind == "own scheduler":
        options["scheduler"] = lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    options["train"] = DataLoader(Samples(maps(16)), 8, shuffle=True)
    whole = train(tmp_path / "whole", **options)
    expected = [1e-2, 5e-3, 2.5e-3] if kind == "own scheduler" else [1e-2, 7.5e-3, 2.5e-3]
    assert rates == pytest.approx(np.repeat(expected, 2))

    def stop(event: Event) -> None:
        if getattr(event, "epoch", None) == 1:
            raise Stop

    with pytest.raises(Stop):
        train(tmp_path / "half", callbacks=[stop], **options)
    resumed = train(tmp_path / "half", resume=True, **options)
    assert journal_of(tmp_path / "half") == journal_of(tmp_path / "whole")
    assert resumed.scores == whole.scores


def test_accumulation_over_a_stream_of_unknown_length(tmp_path: Path) -> None:
    class Batches:
        def __iter__(self) -> Any:
            return zip(*(part.split(4) for part in maps(20)), strict=True)

    steps: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            steps.append(sum(float(p.grad.abs().sum()) for group in self.param_groups for p in group["params"]))
            return super().step(closure)

    train(tmp_path, train=Batches(), accumulate=2, optimizer=lambda p: Watched(p, lr=1e-9), epochs=2)
    # Five batches: two of two, and one whose gradient counts as much.
    assert len(steps) == 6 and 0.3 < steps[2] / steps[1] < 3


def test_a_run_of_another_network_task_or_data_is_not_resumed(tmp_path: Path) -> None:
    search(tmp_path)
    shutil.rmtree(tmp_path / "population")
    for change in ({"net": net(4)}, {"train": maps(17)}, {"where": "stem"}, {"task": Segmentation(ignore_index=7)}):
        with pytest.raises(InputError, match="another recipe"):
            search(tmp_path, resume=True, **change)


def broken() -> nn.Module:
    raise ValueError("no weights\nfound")


class Two(TinyNet):
    def forward(self, x: Tensor, scale: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x * scale)


class Wide(TinyNet):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.flatten(1))


def nan_labels(count: int) -> tuple[Tensor, Tensor]:
    return maps(count, 1)[0], torch.full((count, 6, 6), 255)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no candidates": ({"net": nn.Conv2d(1, 3, 1)}, "no convolution to insert branches at"),
    "where chooses none": ({"where": "head"}, "no convolution to insert branches at"),
    "no module": ({"net": 3}, "expected a torch.nn.Module"),
    "failing factory": ({"net": broken}, "broken: the factory raised ValueError: no weights found"),
    "factory of nothing": ({"net": lambda: None}, "expected a torch.nn.Module from the factory, got NoneType"),
    "factory with arguments": (
        {"net": lambda width: width},
        "<lambda>: the factory needs arguments: missing a required argument: 'width' (functools.partial(",
    ),
    "network that cannot read": ({"net": Wide()}, "net: the network cannot read inputs of 1x6x6"),
    "network of two inputs": ({"net": Two()}, "use insert_branches in your own training loop"),
    "empty loader": ({"train": DataLoader(Samples(tuple(t[:0] for t in maps(1))), 4)}, "train: no batch"),  # type: ignore[arg-type]
    "empty list": ({"val": []}, "val: no batch"),
    "generator": ({"train": (each for each in [maps(8)])}, "train: a generator can be iterated only once"),
    "labels outside": ({"train": (maps(16)[0], maps(16)[1] + 1)}, "train: labels outside the classes"),
    "labels of val outside": ({"val": (maps(9, 1)[0], maps(9, 1)[1] + 7)}, "val: labels outside the classes"),
    "labels of a stream": ({"train": Samples((maps(16)[0], maps(16)[1] - 1))}, "train: labels outside the classes"),
    "labels of images": ({"train": pairs(16)}, "train: expected integer labels (N, H, W), got int64 (16,)"),
    "metric is NaN": ({"val": nan_labels(9)}, "val: the metric mIoU of these targets is nan"),
    "inputs are NaN": (
        {
            "net": net(1, pool=True),
            "task": "regression",
            "train": (maps(16)[0], torch.rand(16)),
            "val": (maps(9)[0] * torch.nan, torch.rand(9)),
        },
        "val: the metric R2 of these inputs is nan (some of them are NaN or infinite)",
    ),
    "shared images": ({"val": tuple(each[3:9] for each in maps(16))}, "val: 6 of 6 images are also in train"),
    "unknown task": ({"task": "detect"}, "task: unknown task 'detect'"),
    "unknown key": ({"populaton": 3}, "populaton: unknown key (did you mean population?)"),
    "key of a section in it": ({"lr": 0.1}, "lr: unknown key (did you mean weights.lr or arch.lr?)"),
    "wrong value": ({"evolutions": 0}, "ird.search: evolutions: expected"),
    "augmentation of maps": ({"augment": {"flip": True}}, "only images in memory with one label"),
    "impossible budget": ({"budget": "1/99"}, "search.budget: a budget of 1/99 keeps none"),
    "nothing to train on": ({"train": DataLoader(Samples(maps(16)), 1)}, "train: no batch to train on"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_cannot_be_searched_is_said_in_one_line_and_leaves_nothing(fault: str, tmp_path: Path) -> None:
    changes, words = WRONG[fault]
    with pytest.raises(InputError) as caught:
        search(tmp_path / "out", **changes)
    assert words in caught.value.line and "\n" not in caught.value.line
    assert not (tmp_path / "out").exists()


def test_shared_images_can_be_meant(tmp_path: Path) -> None:
    search(tmp_path, val=maps(16), allow_shared=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": lambda parameters: 1 / 0}, "optimizer: the factory raised ZeroDivisionError"),
        ({"optimizer": lambda parameters: None}, "expected a torch optimizer from the factory, got NoneType"),
        ({"scheduler": lambda optimizer: 3}, "expected a learning-rate scheduler from the factory, got int"),
        ({"lr": 0.1}, "lr: unknown key (did you mean weights.lr?)"),
        ({"epoch": 3}, "epoch: unknown key (did you mean epochs?)"),
        ({"task": Segmentation(), "label_smoothing": 0.1}, "label_smoothing: already set by the given task"),
        ({"test": (maps(3)[0], maps(3)[1][:1])}, "test: 3 inputs for 1 targets"),
    ],
)
def test_what_cannot_be_trained(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, ModelError, RecipeError)) as caught:
        train(tmp_path / "out", **changes)
    assert words in caught.value.line
    assert not (tmp_path / "out").exists()


def test_inputs_that_are_nan_are_blamed(tmp_path: Path) -> None:
    images, labels = maps(64)
    images[50] = float("nan")
    for run in (train, search):
        with pytest.raises(InputError, match="train: some inputs are NaN or infinite"):
            run(tmp_path / "out", train=(images, labels))
        assert not (tmp_path / "out").exists()


def test_labels_of_a_stream_are_checked_in_its_first_epoch(tmp_path: Path) -> None:
    images, labels = maps(64)
    labels[:] = labels.where(torch.arange(64)[:, None, None] < 60, 9)

    class Late(Samples):
        pass

    with pytest.raises(InputError, match="train: labels outside the classes"):
        train(tmp_path / "out", train=Late((images, labels)))
    assert not (tmp_path / "out").exists()


def test_a_split_of_our_own_is_taken_as_it_is(tmp_path: Path) -> None:
    images, labels = pairs(16)
    found = search(
        tmp_path,
        net=net(pool=True),
        train=Split(images, labels),
        val=pairs(10, 1),
        task="classification",
        augment={"flip": True, "crop": 1},
    )
    assert found.best.count


def test_the_functions_are_names_of_the_package() -> None:
    import irepdeploy.search.engine  # noqa: F401  # the module takes its place in the package

    names: list[Callable[..., Any]] = [ird.search, ird.train, ird.Supernet]
    assert all(callable(name) for name in names)
    assert {"net", "train", "val", "task"} <= set(inspect.signature(ird.search).parameters)
    assert {"search", "train", "Supernet"} <= set(dir(ird))
