"""Outputs of the fixed operation and of the whole block, as numbers; images; and their picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import irepdeploy as ird
from irepdeploy.data import embedded_dataset
from irepdeploy.errors import InputError
from irepdeploy.network.nets import build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.network.source import open_source
from irepdeploy.plots.feature_maps import (
    FeatureMaps,
    chosen_layers,
    feature_maps,
    layer_names,
    read_features,
    why_untrained,
)
from irepdeploy.plots.features import draw_features
from irepdeploy.plots.figure import save_figure
from irepdeploy.plots.images import ShownImage, read_images
from irepdeploy.reparam.origin import origin_of, set_origin

VGG6 = [f"stages.{stage}.{conv}.conv" for stage in range(3) for conv in range(2)]


def net(branches: str | None = "ireps", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return randomize_statistics(build("vgg6", branches=branches, stages=((4, 4), (8, 8), (8, 8))), seed).eval()


def images(count: int = 1, shape: tuple[int, int, int] = (1, 16, 16)) -> list[ShownImage]:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape).astype(np.float32) for _ in range(count)]
    return [ShownImage(f"image {i}", array, np.zeros((*shape[1:], 3))) for i, array in enumerate(arrays)]


def labels(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def test_maps_are_those_of_the_convolutions() -> None:
    model = net()
    shown = images(2)
    maps = feature_maps(model, shown, layer_names(model))
    assert list(maps.layers) == VGG6
    block = model.get_submodule(VGG6[0])
    with torch.no_grad():
        for place, image in enumerate(shown):
            x = torch.from_numpy(image.array)[None]
            assert np.allclose(maps.fused[place][VGG6[0]], block(x)[0].abs().mean(0), atol=1e-6)
            # The block adds in place to the output of the fixed operation, which must be captured before.
            assert np.allclose(maps.fixed[place][VGG6[0]], block.fixed(x)[0].abs().mean(0), atol=1e-6)
            assert not np.allclose(maps.fixed[place][VGG6[0]], maps.fused[place][VGG6[0]], atol=1e-2)
    assert maps.fused[0][VGG6[5]].shape == (4, 4)


def test_a_fused_network_has_the_maps_of_its_branches() -> None:
    model = net()
    fused = ird.fuse(model, prove=False)
    assert list(layer_names(fused)) == VGG6
    before, after = (feature_maps(each, images(), VGG6) for each in (model, fused))
    assert after.fixed == []
    for name in VGG6:
        assert np.allclose(before.fused[0][name], after.fused[0][name], rtol=1e-4, atol=1e-5)


def test_a_plain_network_is_seen_behind_its_batch_normalization() -> None:
    plain = net(None)
    maps = feature_maps(plain, images(), layer_names(plain))
    assert maps.fixed == [] and list(maps.layers) == VGG6
    unit = plain.get_submodule("stages.0.0")
    with torch.no_grad():
        expected = unit.bn(unit.conv(torch.from_numpy(images()[0].array)[None]))[0].abs().mean(0)
    assert np.allclose(maps.fused[0][VGG6[0]], expected, atol=1e-6)
    # Looking at it does not change it.
    assert type(plain.get_submodule(VGG6[0])) is nn.Conv2d
    assert not any(module._forward_hooks for module in plain.modules())


def test_which_layers_are_shown() -> None:
    names = [f"layer.{index}" for index in range(16)]
    assert chosen_layers(names, None, 16) == tuple(names)
    assert chosen_layers(names, None, 4) == ("layer.0", "layer.5", "layer.10", "layer.15")
    assert chosen_layers(names, "*.1?", 4) == ("layer.10", "layer.12", "layer.13", "layer.15")
    assert chosen_layers(names[:1], None, 4) == ("layer.0",)
    with pytest.raises(InputError, match="no layer matches 'head'"):
        chosen_layers(names, "head", 4)
    with pytest.raises(InputError, match="at least 2"):
        chosen_layers(names, None, 1)


class Foreign(nn.Module):
    """Two convolutions, of which one takes no part, and images of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.idle = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x)


def test_layers_that_take_no_part_and_images_that_do_not_fit() -> None:
    model = Foreign().eval()
    maps = feature_maps(model, images(1, (3, 8, 8)), layer_names(model))
    assert maps.layers == ("first",)
    with pytest.raises(InputError, match="uses none of these layers"):
        feature_maps(model, images(1, (3, 8, 8)), ["idle"])
    with pytest.raises(InputError, match="mine: the network does not run on images of 1x8x8"):
        feature_maps(model, images(1, (1, 8, 8)), ["first"], label="mine")
    assert not any(module._forward_hooks for module in model.modules())


def test_who_is_untrained(tmp_path: Path) -> None:
    assert why_untrained(open_source("vgg6")) == "random, seed 0"
    assert why_untrained(open_source(build("vgg6"))) == "its batch normalization has never been trained"
    trained = net(None)
    set_origin(trained, statistics="initial")
    assert why_untrained(open_source(trained)) == ""
    architecture = origin_of(ird.insert_branches(net(None), "ireps")).architecture
    inserted = open_source(trained, architecture=architecture)
    assert why_untrained(inserted) == "branches fresh, seed 0"
    ird.save(trained, tmp_path / "a.pt")
    assert why_untrained(open_source(tmp_path / "a.pt")) == ""
    set_origin(trained, statistics="random, seed 3")
    ird.save(trained, tmp_path / "b.pt")
    assert why_untrained(open_source(tmp_path / "b.pt")) == "random, seed 3"


def test_images_of_the_data_set_or_photographs() -> None:
    digits = read_images([], (1, 16, 16), "digits")
    data = embedded_dataset("digits")
    assert data is not None
    assert [image.name for image in digits] == ["digits 0", "digits 1"]
    assert np.array_equal(digits[1].array, data.val.images[1].numpy())
    assert digits[0].pixels.shape == (16, 16, 3)
    # Back from what the network reads to what it was before: grey between 0 and 1.
    assert digits[0].pixels.min() == pytest.approx(0, abs=0.02) and digits[0].pixels.max() > 0.9
    photographs = read_images([], (3, 20, 30))
    assert [image.name for image in photographs] == ["china.jpg", "flower.jpg"]
    assert photographs[0].array.shape == (3, 20, 30) and photographs[0].array.dtype == np.float32
    assert np.allclose(photographs[0].pixels, photographs[0].array.transpose(1, 2, 0) * 0.25 + 0.45, atol=1e-6)
    assert read_images([], (1, 32, 32), "digits")[0].name == "china.jpg"


def test_images_of_the_user(tmp_path: Path) -> None:
    # Red in the middle third, so that cutting around the centre leaves nothing else.
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "b.png")
    np.save(tmp_path / "a.npy", np.full((2, 3, 10, 10), 0.2, np.float32))
    (tmp_path / "notes.txt").write_text("no image")
    found = read_images([tmp_path], (3, 10, 10))
    assert [image.name for image in found] == ["a.npy 0", "a.npy 1", "b.png"]
    assert np.allclose(found[0].array, 0.2)
    assert np.allclose(found[2].array[0], (1 - 0.45) / 0.25, atol=1e-5)
    assert np.allclose(found[2].array[1], -0.45 / 0.25, atol=1e-5)
    grey = read_images([tmp_path / "b.png"], (1, 10, 10), "digits")[0]
    assert grey.pixels == pytest.approx(np.full((10, 10, 3), 76 / 255), abs=1e-3)


@pytest.mark.parametrize(
    ("files", "shape", "said"),
    [
        (["none.png"], (3, 8, 8), "no such image"),
        (["text.png"], (3, 8, 8), "not an image"),
        (["empty"], (3, 8, 8), "no image and no .npy file"),
        (["small.npy"], (3, 8, 8), "shape"),
        (["text.png"] * 13, (3, 8, 8), "13 images are too many"),
        ([], (7, 8, 8), "7x8x8"),
        ([], (), "unknown"),
    ],
)
def test_images_that_are_none(
    files: list[str], shape: tuple[int, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no image")
    Path("empty").mkdir()
    np.save("small.npy", np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(InputError, match=said):
        read_images(files, shape)


def test_plain_and_irep_side_by_side(tmp_path: Path) -> None:
    for name, branches in (("plain", None), ("irep", "ireps")):
        model = net(branches)
        set_origin(model, dataset="digits", statistics="trained")
        (tmp_path / name).mkdir()
        ird.save(model, tmp_path / name / "best.pt")
    found = read_features({"plain": tmp_path / "plain", "irep": tmp_path / "irep" / "best.pt"}, columns=3)
    assert [each.layers for each in found] == [(VGG6[0], VGG6[2], VGG6[5])] * 2
    assert [each.untrained for each in found] == ["", ""]
    figure = draw_features(found)
    assert labels(figure) == 2 * ["plain\nconvolutions", "irep\nfixed operation", "irep\nwith branches, fused"]
    panels = np.array(figure.axes).reshape(6, 4)
    # The layers in order, and each image once.
    assert [axes.get_title() for axes in panels[0]] == ["image", VGG6[0], VGG6[2], VGG6[5]]
    assert [len(axes.images) for axes in panels[:, 0]] == [1, 0, 0, 1, 0, 0]
    assert np.array_equal(panels[4, 1].images[0].get_array(), found[1].fixed[1][VGG6[0]])
    assert np.array_equal(panels[5, 3].images[0].get_array(), found[1].fused[1][VGG6[5]])
    assert not figure.get_supxlabel()


def test_random_weights_are_called_untrained_in_the_picture(tmp_path: Path) -> None:
    found = read_features({"größe $x$": "vgg6", "層": "vgg6"}, layers="stages.0.*")
    figure = draw_features(found)
    assert figure.get_supxlabel().split("\n")[0] == "UNTRAINED größe $x$: random, seed 0"
    # Written as outlines: a comment holds what they spell.
    assert "<!-- UNTRAINED größe $x$: random, seed 0" in save_figure(figure, tmp_path / "a.svg").read_text()


def test_a_layer_without_branches_has_no_fixed_map() -> None:
    model = net()
    for name in VGG6[1:]:
        model.get_submodule(name).active = ()
    figure = draw_features([feature_maps(model, images(), VGG6[:2])])
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["no branches"]


def test_networks_that_cannot_stand_side_by_side(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no layer in common"):
        read_features({"a": "vgg6", "b": "resnet18_cifar"})
    ird.save(nn.Linear(3, 3), tmp_path / "linear.pt")
    with pytest.raises(InputError, match="linear: this network has no 3x3 convolution"):
        read_features({"linear": tmp_path / "linear.pt"}, model_factory=lambda: nn.Linear(3, 3))
    one, other = feature_maps(net(), images(1), VGG6[:1]), feature_maps(net(), images(2), VGG6[:1])
    with pytest.raises(InputError, match="different images"):
        draw_features([one, other])
    with pytest.raises(InputError, match="nothing to draw"):
        draw_features([])
    many: Any = FeatureMaps("many", images(13), ("a",), [{}] * 13, [{}] * 13)
    with pytest.raises(InputError, match="26 rows are too many"):
        draw_features([many])


def test_a_map_of_one_value_is_drawn(tmp_path: Path) -> None:
    flat = FeatureMaps("flat", images(), ("a",), [], [{"a": np.zeros((1, 1), np.float32)}])
    save_figure(draw_features([flat]), tmp_path / "a.png")
