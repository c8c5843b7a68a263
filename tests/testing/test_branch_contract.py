"""Every branch meets the contract, including a foreign one; a faulty branch fails it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import Phase, settings
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.errors import ArchitectureError
from irepdeploy.reparam import algebra
from irepdeploy.reparam.branches import BRANCHES, Branch, register_branch
from irepdeploy.reparam.geometry import Geometry
from irepdeploy.reparam.normalization import batch_norm, scale_shift
from irepdeploy.testing import BranchContract


@pytest.fixture(autouse=True)
def fewer_examples() -> Iterator[None]:
    """Divide the examples of a test among the branches, which share most of their code."""
    profile = settings.get_current_profile_name()
    settings.register_profile("fewer", settings.default, max_examples=max(8, settings.default.max_examples // 3))
    settings.load_profile("fewer")
    yield
    settings.load_profile(profile)


for _branch in list(BRANCHES.values()):
    globals()[f"Test{_branch.__name__}"] = type(f"Test{_branch.__name__}", (BranchContract,), {"branch": _branch})


class Scale(Branch):
    """A foreign branch: one factor per channel, then batch normalization."""

    name = "scale"
    rows, columns = "middle", "middle"

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.padding = geometry.tap_padding(geometry.kernel // 2, geometry.kernel // 2)
        self.weight = nn.Parameter(torch.ones(geometry.out_channels))
        self.bn = nn.BatchNorm2d(geometry.out_channels)

    @classmethod
    def impossible(cls, geometry: Geometry) -> str | None:
        return None if geometry.keeps_shape else "needs the shape kept"

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        height, width = self.padding
        x = nn.functional.pad(x, (width, width, height, height))
        return batch_norm(x * self.weight[:, None, None], self.bn, factor)

    def equivalent_taps(self) -> tuple[Tensor, Tensor]:
        kernel = algebra.identity(self.geometry.out_channels, self.geometry.groups, self.weight)
        return algebra.fold_scale_shift(kernel * self.weight[:, None, None, None], None, *scale_shift(self.bn))


class TestScale(BranchContract):
    branch = Scale


class ForgetsItsWeight(Scale):
    def equivalent_taps(self) -> tuple[Tensor, Tensor]:
        kernel = algebra.identity(self.geometry.out_channels, self.geometry.groups, self.weight)
        return algebra.fold_scale_shift(kernel, None, *scale_shift(self.bn))


class DropsTheFactor(Scale):
    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        return super().forward(x)


class NotSilent(Scale):
    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        y = super().forward(x, factor)
        return y + 1 if factor is None else y + factor

    def equivalent_taps(self) -> tuple[Tensor, Tensor]:
        kernel, bias = super().equivalent_taps()
        return kernel, bias + 1


class MixesSamples(Scale):
    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        y = super().forward(x, factor)
        return y + (y.mean() if factor is None else 0)


class KeepsAnUntrainedPart(Scale):
    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self.unused = nn.Parameter(torch.ones(1))


@pytest.fixture
def no_shrinking() -> Iterator[None]:
    profile = settings.get_current_profile_name()
    settings.register_profile("no-shrinking", settings.default, phases=(Phase.generate,))
    settings.load_profile("no-shrinking")
    yield
    settings.load_profile(profile)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (ForgetsItsWeight, "test_equals_its_kernel"),
        (ForgetsItsWeight, "test_a_block_with_it_fuses_by_algebra_and_by_probe"),
        (DropsTheFactor, "test_factor_multiplies_the_output_and_moves_no_statistic_otherwise"),
        (NotSilent, "test_its_last_normalization_silences_it"),
        (MixesSamples, "test_samples_do_not_meet_in_eval_mode"),
        (KeepsAnUntrainedPart, "test_every_parameter_trains"),
    ],
)
def test_a_broken_branch_does_not_pass(
    broken: type[Branch], test: str, monkeypatch: pytest.MonkeyPatch, no_shrinking: None
) -> None:
    monkeypatch.setitem(BRANCHES, broken.name, broken)
    contract = type("Broken", (BranchContract,), {"branch": broken})()
    with pytest.raises(AssertionError):
        getattr(contract, test)()


@pytest.fixture
def registered() -> Iterator[None]:
    register_branch(Scale)
    yield
    del BRANCHES["scale"]


def test_a_registered_branch_is_inserted_saved_loaded_and_fused(registered: None, tmp_path: object) -> None:
    net = ird.insert_branches(ird.build("vgg6"), ["conv1x3", "scale", "scale_2"]).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = ird.save(net, f"{tmp_path}/net.pt")
    x = torch.randn(1, 1, 16, 16)
    assert ird.compare(ird.load(path), ird.fuse(net), x).ok
    assert register_branch(Scale) is Scale


def test_names_are_checked() -> None:
    with pytest.raises(ArchitectureError, match="branch 'conv1x1' is already registered"):
        register_branch(type("Mine", (Scale,), {"name": "conv1x1"}))
    for name in ("", "a b", "a.b", "conv3x3_2", None):
        with pytest.raises(ArchitectureError, match="cannot name a branch"):
            register_branch(type("Mine", (Scale,), {"name": name or ""}))
