"""Networks of timm and torchvision by name; stand-ins of both, since neither is installed with irepdeploy."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.cli import main
from irepdeploy.errors import CheckpointError, InputError, MissingError, ModelError
from irepdeploy.network import libraries
from irepdeploy.network.libraries import library_name
from irepdeploy.network.nets import build_plain
from irepdeploy.network.source import open_source
from irepdeploy.profiling.inspection import inspect_model
from irepdeploy.reparam.origin import origin_of
from irepdeploy.verify.certified import check_certified
from irepdeploy.verify.equivalence import verify_models


class Small(nn.Module):
    def __init__(self, num_classes: int = 5, transform_input: bool = False) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, num_classes)
        self.transform_input = transform_input

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(x)).relu().mean((2, 3)))


class Weights(Enum):
    FIRST = "https://example.invalid/first.pth"
    DEFAULT = "https://example.invalid/default.pth"

    @property
    def meta(self) -> dict[str, Any]:
        return {"categories": ["a", "b", "c"]}

    def transforms(self) -> SimpleNamespace:
        return SimpleNamespace(crop_size=[8])


def of_timm(name: str, pretrained: bool = False, **args: Any) -> nn.Module:
    if name.startswith("hf-hub:"):
        name, args = "small", {"num_classes": 7}
    arch, _, tag = name.partition(".")
    if arch == "tagged":
        tag = tag or "first"
    elif arch != "small":
        raise RuntimeError(f"Unknown model ({arch})")
    if pretrained and tag == "offline":
        raise OSError("the hub is not there") from URLError("Name or service not known")
    model: Any = Small(**args)
    if pretrained:
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
        nn.init.constant_(model.head.bias, 3.0)
    model.pretrained_cfg = {"architecture": arch, "tag": tag, "input_size": (3, 8, 8)}
    model._model_args = args
    return model


def of_torchvision(weights: Any = None, **args: Any) -> nn.Module:
    if weights is None:
        return Small(**args)
    return Small(num_classes=3, transform_input=True)


def images(count: int = 16) -> Any:
    """A data.factory: images of two classes."""
    make = torch.Generator().manual_seed(0)
    return {
        part: (torch.randn(count, 3, 9, 9, generator=make), torch.arange(count) % 2)
        for part in ("train", "val", "test")
    }


class FrozenBatchNorm2d(nn.Identity):
    pass


def frozen(weights: Any = None) -> nn.Module:
    return Small() if weights is None else nn.Sequential(Small(), FrozenBatchNorm2d())


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    timm, torchvision = ModuleType("timm"), ModuleType("torchvision")
    vars(timm).update(create_model=of_timm, list_models=lambda: ["small", "smaller"])
    builders = {"small": of_torchvision, "frozen": frozen}
    models = SimpleNamespace(
        get_model_builder=builders.__getitem__, get_model_weights=lambda name: Weights, list_models=lambda: ["small"]
    )
    vars(torchvision).update(models=models)
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setattr(libraries, "version", lambda name: "1.2")


def test_names() -> None:
    found = library_name("timm/resnet18.a1_in1k:random")
    assert found is not None and (found.library, found.name, found.random) == ("timm", "resnet18.a1_in1k", True)
    found = library_name("hf-hub:timm/resnet18.a1_in1k@main")
    assert found is not None and (found.library, found.name) == ("timm", "hf-hub:timm/resnet18.a1_in1k@main")
    # Paths, addresses and folders that timm would read are not accepted as names.
    for text in (
        "vgg16",
        "timm/",
        "timm/a/b",
        "runs/best.pt",
        "timm/local-dir:x",
        "timm/hf-hub:a/b",
        "timm/../x",
        "x/y",
    ):
        assert library_name(text) is None, text


@pytest.mark.parametrize(
    ("name", "net", "said"),
    [
        ("timm/small.tag", "timm/small.tag", "pretrained tag, timm 1.2"),
        ("hf-hub:somebody/small", "timm/small", "pretrained, timm 1.2"),
        ("torchvision/small", "torchvision/small", "pretrained DEFAULT, torchvision 1.2"),
        ("torchvision/small.FIRST", "torchvision/small", "pretrained FIRST, torchvision 1.2"),
        ("timm/small:random", "timm/small", "random, seed 0"),
        ("torchvision/small:random", "torchvision/small", "random, seed 0"),
    ],
)
def test_a_network_is_exported_and_its_files_are_complete(name: str, net: str, said: str, tmp_path: Path) -> None:
    certificate = ird.export_model(name, tmp_path, simplify=False)
    assert (certificate.source["net"], certificate.source["statistics"]) == (net, said)
    assert certificate.onnx["inputs"][0]["shape"] == [1, 3, 8, 8]
    # Without --model, and without downloading anything.
    fused = ird.load(tmp_path / "fused.pt")
    assert origin_of(fused).net == net
    assert verify_models(name, tmp_path / "model.onnx").ok
    again = check_certified(tmp_path / "model.onnx", tmp_path / "certificate.json")
    assert again.ok and (again.comparison is not None) == name.endswith(":random")
    if "random" not in name:
        assert f"verify {name} FILE" in again.skipped


def test_the_same_seed_gives_the_same_network() -> None:
    state, before = torch.get_rng_state(), os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    a, b, c = (open_source("timm/small:random", seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(a["head.weight"], b["head.weight"]) and not torch.equal(a["head.weight"], c["head.weight"])
    assert a["bn.running_mean"].abs().min() > 0
    assert torch.equal(torch.get_rng_state(), state) and os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") == before


def test_random_weights_of_a_default_tag_are_not_called_by_it() -> None:
    assert open_source("timm/tagged:random").origin.net == "timm/tagged"
    assert open_source("timm/tagged").origin.net == "timm/tagged.first"


def test_layers_that_come_with_weights_cannot_be_built_again(tmp_path: Path) -> None:
    source = open_source("torchvision/frozen")
    assert source.origin.net is None and source.facts["library"] == "torchvision/frozen"
    with pytest.raises(CheckpointError, match="which cannot be built from the file alone"):
        ird.load(ird.save(source.model, tmp_path / "c.pt"))


def test_inspect_and_bench_take_them(tmp_path: Path) -> None:
    assert inspect_model("timm/small:random").facts["input_shape"] == [3, 8, 8]
    from irepdeploy.bench.subject import NETWORK, find_subjects

    assert [each.kind for each in find_subjects(["a=timm/small:random"])] == [NETWORK]


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("timm/smal", InputError, "no such network.*did you mean timm/small"),
        ("timm/small.offline", MissingError, "cannot download the weights: .*not known.*timm/small.offline:random"),
        ("torchvision/small.SECOND", InputError, "no such weights: .*SECOND"),
        ("torchvision/big", InputError, "has no such network"),
    ],
)
def test_what_a_library_lacks_is_one_line(name: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        open_source(name)


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = ird.save(open_source("timm/small:random").model, tmp_path / "c.pt")
    monkeypatch.setitem(sys.modules, "timm", None)
    for go in (lambda: open_source("timm/small"), lambda: ird.load(path)):
        with pytest.raises(MissingError, match=r"timm is not installed.*pip install timm") as caught:
            go()
        assert caught.value.exit_code == 3


def test_a_file_of_that_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("timm").mkdir()
    Path("timm/small").write_bytes(b"hello, this is no checkpoint" * 9)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        open_source("timm/small")


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("timm/small", {"checkpoint_path": "/etc/passwd"}),
        ("timm/small", {"pretrained": True}),
        ("timm/small", {"num_classes": "3"}),
        ("timm/small:random", {}),
        ("hf-hub:somebody/small", {}),
        ("torchvision/small", {"weights": "DEFAULT"}),
    ],
)
def test_a_checkpoint_names_no_file_and_no_download(name: str, args: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        build_plain(name, **args)


@pytest.mark.parametrize(("name", "classes"), [("timm/small", 2), ("timm/small:random", 2), ("torchvision/small", 3)])
def test_a_recipe_trains_a_network_of_a_library(
    name: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setitem(sys.modules, "test_libraries", sys.modules[__name__])
    recipe = f"net: {{factory: '{name}'}}\ndata: {{factory: 'test_libraries:images'}}\nthreads: 1\n"
    (tmp_path / "r.yaml").write_text(recipe + "train: {epochs: 1, batch_size: 8}\n")
    assert main(["train", "r.yaml", "--out", "run"]) == 0
    printed = capsys.readouterr().out
    assert f"Training of {name} on" in printed and "--model" not in printed
    net = ird.load("run/best.pt")
    origin = origin_of(net)
    # The number of classes of the data, if the library supports it, and the sizes of the data.
    assert net.head.out_features == classes and origin.net == name.removesuffix(":random")
    assert origin.input_shape == (3, 9, 9)
