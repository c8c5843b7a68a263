"""`fuse_graph`: networks of foreign classes, through ONNX and back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import irepdeploy
from irepdeploy.errors import CheckFailed, InputError, ModelError, NotFusable
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.onnx_collapse.read_back import graph_fuse
from irepdeploy.reparam.origin import origin_of
from support.networks import random_network
from support.published_networks import PUBLISHED, published_network


def convolutions(model: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in model.modules())


def same(a: nn.Module, b: nn.Module, shape: tuple[int, ...], batch: int = 2) -> float:
    x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = a(x), b(x)
    return float((expected - found).abs().max() / expected.abs().max())


EXACT = [name for name, network in PUBLISHED.items() if network.deploy_convs is not None]
SOON = ("yolov9", "repvit", "orepa")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SOON else [pytest.mark.slow]) for name in EXACT]
)
def test_published_networks(name: str) -> None:
    model, network = published_network(name), PUBLISHED[name]
    before = copy.deepcopy(model.state_dict())
    plain = irepdeploy.fuse_graph(model, example=torch.zeros(1, *network.input_shape))
    assert convolutions(plain) == network.deploy_convs
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert same(model, plain, network.input_shape, batch=5) < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in plain.parameters()) and not plain.training


def test_a_network_of_ours_says_what_it_reads(tmp_path: Any) -> None:
    model = random_network(branches="ireps")
    plain = irepdeploy.fuse_graph(model)
    assert convolutions(plain) == 6 and same(model, plain, (1, 16, 16)) < 1e-5
    origin = origin_of(plain)
    assert origin.state == "fused" and origin.net is None and origin.input_shape == (1, 16, 16)
    certificate = irepdeploy.export_model(plain, tmp_path, simplify=False)
    assert certificate.ok and certificate.onnx["operators"]["Conv"] == 6
    copied = copy.deepcopy(plain)
    assert same(plain, copied, (1, 16, 16)) == 0


def test_nothing_to_collapse_is_a_copy() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    plain = irepdeploy.fuse_graph(model, example=torch.zeros(1, 3, 8, 8))
    assert type(plain) is nn.Sequential and plain is not model and same(model, plain, (3, 8, 8)) == 0


class Mixed(nn.Module):
    """RepVGG's branches among operators that stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.odd, self.fc = nn.Conv2d(4, 6, 3), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.hardswish(self.a(x) + self.b(x))
        y = F.max_pool2d(F.pad(y, (1, 0, 1, 0)), 2) + F.avg_pool2d(F.pad(y, (0, 1, 0, 1)), 2)
        y = F.leaky_relu(self.odd(F.pad(y, (1, 2, 0, 1), mode="reflect")), 0.1)
        first, second = y.split([2, 4], 1)
        y = torch.cat([second.sigmoid() * 2 - 1, first.clamp(-0.5, 0.5)], 1)
        return F.softmax(self.fc(y.mean((2, 3))), -1), y.permute(0, 2, 3, 1)


def test_operators_that_stay() -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    plain = irepdeploy.fuse_graph(model, example=torch.zeros(1, 4, 9, 9))
    assert convolutions(plain) == 2
    x = torch.randn(3, 4, 9, 9)
    with torch.no_grad():
        for a, b in zip(model(x), plain(x), strict=True):
            assert a.shape == b.shape and torch.allclose(a, b, atol=1e-5)


def test_a_batch_in_a_shape() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.a(x) + self.b(x))
            return self.fc(y.view(x.size(0), -1))

    model = Flat().eval()
    plain = irepdeploy.fuse_graph(model, example=torch.zeros(1, 2, 4, 4))
    assert convolutions(plain) == 1 and same(model, plain, (2, 4, 4), batch=7) < 1e-5


def test_a_batch_in_the_numbers_is_found() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.a(x) + self.b(x)) * x.size(0)

    with pytest.raises(CheckFailed, match="differs"):
        irepdeploy.fuse_graph(Scaled().eval(), example=torch.zeros(1, 2, 4, 4))


class Deciding(nn.Module):
    """Chooses its path, or the number of its steps, by the values of its input."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b, self.way = Rep(), Rep(), way
        self.register_buffer("steps", torch.tensor(2))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "if":
            return self.a(x) if x.mean() > 0 else self.b(x)
        if self.way == "item":
            return self.a(x) * int(x.abs().max().item() * 3)
        if self.way == "numpy":
            y = self.a(x)
            return y + float(y.detach().numpy().mean())
        if self.way == "set":
            marks = torch.zeros(1)
            marks[0] = x.amax()
            return self.a(x) if bool(marks) else self.b(x)
        # Sizes and buffers are no values of the input.
        if x.shape[2] % 2 or x.dim() != 4 or not len(x):
            return self.b(x)
        return self.a(x) * int(self.steps) if bool(self.steps > 1) else self.b(x)


@pytest.mark.parametrize("way", ["if", "item", "numpy", "set"])
def test_a_network_that_decides_by_values_is_refused(way: str) -> None:
    """A trace keeps one of its paths, and random inputs need not take the other one."""
    with pytest.raises(NotFusable, match="by the values of a tensor"):
        irepdeploy.fuse_graph(Deciding(way).eval(), example=torch.rand(1, 3, 8, 8))


def test_sizes_and_buffers_may_decide() -> None:
    model = Deciding("sizes").eval()
    plain = irepdeploy.fuse_graph(model, example=torch.rand(1, 3, 8, 8))
    assert convolutions(plain) == 1 and same(model, plain, (3, 8, 8)) < 1e-5


def test_defaults_of_forward_are_no_inputs() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = Rep()

        def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
            return self.a(x) * scale if mask is None else self.a(x) * mask

    model = Optional().eval()
    plain = irepdeploy.fuse_graph(model, example=torch.zeros(1, 3, 8, 8))
    assert convolutions(plain) == 1 and same(model, plain, (3, 8, 8), batch=3) < 1e-5
    assert "forward" not in vars(model)


def test_a_copy_of_normalized_weights() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU()).eval()
    plain = irepdeploy.fuse_graph(model, example=torch.zeros(1, 3, 8, 8))
    assert plain is not model and same(model, plain, (3, 8, 8)) < 1e-6


def test_a_lazy_layer_without_weights() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU()).eval()
    for call in (lambda: irepdeploy.fuse_graph(model, torch.zeros(1, 3, 8, 8)), lambda: irepdeploy.export_model(model)):
        with pytest.raises(ModelError, match=r"0\.weight: this lazy layer has no weights yet"):
            call()


def test_a_network_noisier_than_the_tolerance() -> None:
    """Its own outputs move by more than 1e-4 where the inputs move by one unit in the last place."""
    torch.manual_seed(0)
    model = nn.Sequential(Rep(), Steep()).eval()
    plain = irepdeploy.fuse_graph(model, example=torch.zeros(1, 3, 8, 8))
    assert convolutions(plain) == 1 and same(model, plain, (3, 8, 8)) > 1e-4


class Steep(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(5000 * x)


def test_a_wrong_collapse_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    true = graph_fuse.torch_from_onnx

    def broken(model: Any, twice: Any = None) -> Any:
        plain = true(model, twice)
        with torch.no_grad():
            next(plain.parameters()).mul_(1.5)
        return plain

    monkeypatch.setattr(graph_fuse, "torch_from_onnx", broken)
    model = published_network("repvgg")
    with pytest.raises(CheckFailed, match="differs"):
        irepdeploy.fuse_graph(model, example=torch.zeros(1, 3, 21, 18))


def test_bad_input() -> None:
    model, example = published_network("repvgg"), torch.zeros(1, 3, 21, 18)
    with pytest.raises(InputError, match="example"):
        irepdeploy.fuse_graph(model)
    with pytest.raises(NotFusable, match=r"eval\(\)"):
        irepdeploy.fuse_graph(published_network("repvgg").train(), example=example)
    with pytest.raises(NotFusable, match="float32"):
        irepdeploy.fuse_graph(published_network("repvgg").double(), example=example.double())
    with pytest.raises(NotFusable, match="cannot export"):
        irepdeploy.fuse_graph(model, example=torch.zeros(1, 7, 21, 18))

    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot((self.a(x) + self.b(x)).long(), 3)

    with pytest.raises(ModelError, match="OneHot cannot be read back into torch"):
        irepdeploy.fuse_graph(randomize_statistics(Strange()).eval(), example=example)


class Rep(nn.Module):
    """Two convolutions of one input."""

    def __init__(self, channels: int = 3, out: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) + self.b(x)).relu()


class Pooled(nn.Module):
    """Pools its input by a function, then calls its layers."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool, self.down, self.up = pool, nn.Conv2d(8, 4, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.up(self.down(self.pool(x))), (12, 16)).sigmoid() * x


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "global": lambda x: F.adaptive_avg_pool2d(x, 1),
    "largest": lambda x: F.adaptive_max_pool2d(x, 1),
    "avg": lambda x: F.avg_pool2d(x, 2, 1, 0, False, True),
    "max": lambda x: F.max_pool2d(x, 3, 2, 1),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "regular": lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
}


@pytest.mark.parametrize("name", POOLS)
def test_a_functional_pool_in_a_module_with_layers(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Rep(), Pooled(POOLS[name]), Pooled(POOLS[name])).eval()
    plain = irepdeploy.fuse_graph(model, example=torch.zeros(1, 3, 12, 16))
    assert convolutions(plain) == 5 and same(model, plain, (3, 12, 16), batch=3) < 1e-5


class Attention(nn.Module):
    """Windows of 3x4 tokens, a position bias, a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.token = nn.LayerNorm(8), nn.Linear(8, 24), nn.Parameter(torch.randn(1, 1, 8))
        self.bias = nn.Parameter(torch.randn(2, 12, 12))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        windows = x.view(n, c, h // 3, 3, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 12, c)
        q, k, v = self.qkv(self.norm(windows)).reshape(len(windows), 12, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-2, -1)) / 2 + self.bias).softmax(-1) @ v
        joined = mixed.transpose(1, 2).reshape(n, h // 3, w // 4, 3, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)
        rows = joined.flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(n, -1, -1), rows], 1)[:, 0] + rows.mean(1)


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def after(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(Rep(), *layers)


OTHERS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "BatchNorm1d": (1, lambda: after(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.ReLU())),
    "Conv1d": (1, lambda: after(nn.Flatten(2), nn.Conv1d(8, 4, 3, 2, 1, groups=2), nn.BatchNorm1d(4))),
    "ConvTranspose2d": (2, lambda: after(nn.ConvTranspose2d(8, 4, 3, 2, 1, 1, 2), nn.BatchNorm2d(4), Rep(4))),
    "normalizations": (1, lambda: after(nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8))),
    "bilinear": (2, lambda: after(nn.Upsample(scale_factor=1.5, mode="bilinear"), Rep(8), nn.PixelShuffle(2))),
    "corners": (1, lambda: after(nn.Upsample(size=(7, 5), mode="bilinear", align_corners=True), nn.CELU())),
    "softmax": (1, lambda: after(nn.LogSoftmax(1), nn.ZeroPad2d((1, 0, 2, 1)), nn.PixelUnshuffle(1))),
    "attention": (1, lambda: after(Attention())),
    "response": (1, lambda: after(nn.LocalResponseNorm(3))),
    "by 1.7": (1, lambda: after(nn.Upsample(scale_factor=(0.7, 1.7)))),
    "by a mask": (1, lambda: after(Applied(lambda x: torch.nan_to_num(x[:, torch.arange(8) % 3 > 0])))),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_layers_around_a_block(name: str) -> None:
    torch.manual_seed(0)
    count, build = OTHERS[name]
    model = randomize_statistics(build()).eval()
    plain = irepdeploy.fuse_graph(model, example=torch.zeros(1, 3, 12, 16))
    assert convolutions(plain) == count and same(model, plain, (3, 12, 16), batch=3) < 1e-5


class Tokens(nn.Module):
    """torch's own attention, which holds the batch in the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(2).transpose(1, 2)).mean(1)


def test_a_batch_in_another_dimension(capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = after(Tokens()).eval()
    plain = irepdeploy.fuse_graph(model, example=torch.zeros(1, 3, 4, 6))
    assert convolutions(plain) == 1 and same(model, plain, (3, 4, 6), batch=3) < 1e-5
    assert capfd.readouterr() == ("", "")


def test_what_was_read_back_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any exception gives one line."""

    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("expected 4D input")

    monkeypatch.setattr(graph_fuse, "torch_from_onnx", lambda model, twice=None: Failing())
    with pytest.raises(NotFusable, match=r"does not run with a batch of 3.*expected 4D input"):
        irepdeploy.fuse_graph(Rep().eval(), example=torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("example", [3, {"input": 3}, {"x": torch.zeros(1, 3, 8, 8)}])
def test_an_example_of_no_tensors(example: Any) -> None:
    with pytest.raises(InputError, match=r"expected (tensors|inputs input, got x)"):
        irepdeploy.fuse_graph(nn.Conv2d(3, 3, 3).eval(), example=example)


def test_what_is_no_network() -> None:
    with pytest.raises(NotFusable, match="got int"):
        graph_fuse.fuse_graph(3)  # type: ignore[arg-type]


def test_an_exporter_that_fails_leaves_the_terminal_alone(capfd: pytest.CaptureFixture[str]) -> None:
    class Unknown(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    fast = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings(), pytest.raises((ModelError, NotFusable)):
        # As outside of these tests, where warnings are not errors.
        warnings.simplefilter("default")
        irepdeploy.fuse_graph(Unknown().eval(), example=torch.zeros(1, 3, 4, 4))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert torch.backends.mha.get_fastpath_enabled() == fast
