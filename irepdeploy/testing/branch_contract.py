"""Tests that every branch must pass. Inherit from them in the tests of a new branch class.

    class TestMine(BranchContract):
        branch = Mine

The tests need pytest and hypothesis. Call ``register_branch(Mine)`` to use the name in presets and Architectures.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.branches import BRANCHES, Branch, branch_class
from irepdeploy.reparam.comparator import relative_error
from irepdeploy.reparam.fuse import prove_block
from irepdeploy.reparam.geometry import Geometry
from irepdeploy.reparam.normalization import NORMS
from irepdeploy.reparam.probe import probe_block
from irepdeploy.reparam.step import set_step
from irepdeploy.testing.strategies import geometries, randomize_block, small_inputs

__all__ = ["BranchContract"]

_SEEDS = st.integers(0, 2**31)


class BranchContract:
    """Base class for the tests of a branch. Set `branch` to your class."""

    branch: ClassVar[type[Branch]]

    @pytest.fixture(autouse=True)
    def _registered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(BRANCHES, self.branch.name, self.branch)

    def fitted(self, geometry: Geometry) -> Geometry:
        """Return `geometry`, or a similar one for which the branch is possible."""
        same = replace(geometry, stride=(1, 1), out_channels=geometry.in_channels)
        near = (geometry, same, replace(geometry, kernel=3), replace(same, kernel=3))
        found = next((one for one in near if self.branch.impossible(one) is None), None)
        assume(found is not None)
        assert found is not None
        return found

    def made(self, geometry: Geometry, seed: int = 0) -> Branch:
        """Return a branch in eval mode and float64 with random values."""
        return randomize_block(self.branch(geometry), seed).double().eval()

    def test_is_found_by_its_name(self) -> None:
        assert branch_class(self.branch.name) is self.branch
        assert branch_class(f"{self.branch.name}_2") is self.branch

    def test_equals_its_kernel(self) -> None:
        @given(data=st.data())
        @torch.no_grad()
        def check(data: st.DataObject) -> None:
            geometry = self.fitted(data.draw(geometries())).behind_padding
            branch, x = self.made(geometry, data.draw(_SEEDS)), data.draw(small_inputs(geometry))
            kernel, bias = branch.equivalent()
            shape = (geometry.out_channels, geometry.in_channels // geometry.groups, geometry.kernel, geometry.kernel)
            assert kernel.shape == shape and bias.shape == (geometry.out_channels,)
            out, expected = branch(x), _by_kernel(branch, x)
            assert out.shape == expected.shape
            assert _error(expected, out) <= 1e-12
            # If kernel and bias nearly cancel, the rounding error is relative to the terms, not to their sum.
            scale = max(1.0, float(bias.abs().max() + kernel.abs().sum((1, 2, 3)).max() * x.abs().max()))
            assert float((branch.float()(x.float()) - _by_kernel(branch, x.float())).abs().max()) <= 1e-5 * scale

        check()

    def test_factor_multiplies_the_output_and_moves_no_statistic_otherwise(self) -> None:
        @given(geometry=geometries(), seed=_SEEDS, training=st.booleans())
        def check(geometry: Geometry, seed: int, training: bool) -> None:
            geometry = self.fitted(geometry)
            branch = self.made(geometry.behind_padding, seed).train(training)
            twin = copy.deepcopy(branch)
            x = _input(geometry, seed)
            factor = torch.tensor(0.37, dtype=torch.float64)
            assert _error(0.37 * branch(x), twin(x, factor)) <= 1e-10
            for ours, theirs in zip(twin.buffers(), branch.buffers(), strict=True):
                assert torch.allclose(ours, theirs, rtol=1e-10)

        check()

    def test_every_parameter_trains(self) -> None:
        for geometry in (Geometry(4, 4), Geometry(6, 6, groups=6)):
            if self.branch.impossible(geometry) is None:
                branch = self.made(geometry, 1).train()
                branch(_input(geometry, 2)).pow(3).sum().backward()
                for name, parameter in branch.named_parameters():
                    assert parameter.grad is not None and bool((parameter.grad != 0).any()), name

    def test_equals_its_kernel_after_training(self) -> None:
        for geometry in (Geometry(4, 4), Geometry(4, 6, (2, 1), (1, 0)), Geometry(6, 6, groups=3, kernel=5)):
            if self.branch.impossible(geometry) is None:
                branch = self.made(geometry, 3).train()
                optimizer = torch.optim.SGD(branch.parameters(), lr=0.01)
                for seed in range(3):
                    optimizer.zero_grad()
                    branch(_input(geometry, seed)).square().mean().backward()
                    optimizer.step()
                x = _input(geometry, 9)
                assert _error(_by_kernel(branch.eval(), x), branch(x)) <= 1e-12

    def test_its_last_normalization_silences_it(self) -> None:
        """Check that zero gamma and beta give zero outputs, on which ``insert_branches(preserve=True)`` relies."""
        branch = self.made(_somewhere(self.branch), 4)
        last = [module for module in branch.modules() if isinstance(module, NORMS)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        assert not bool(branch(_input(branch.geometry, 1)).any())

    def test_samples_do_not_meet_in_eval_mode(self) -> None:
        branch = self.made(_somewhere(self.branch), 5)
        x = _input(branch.geometry, 1)
        assert _error(branch(x)[:1], branch(x[:1])) <= 1e-12

    def test_state_dict_is_all_of_it(self) -> None:
        branch = self.made(_somewhere(self.branch), 6)
        twin = self.branch(branch.geometry).double().eval()
        twin.load_state_dict(branch.state_dict(), strict=True)
        x = _input(branch.geometry, 1)
        assert torch.equal(twin(x), branch(x)) and torch.equal(copy.deepcopy(branch)(x), branch(x))

    def test_synchronized_normalization_is_the_same(self) -> None:
        branch = self.made(_somewhere(self.branch), 7)
        x = _input(branch.geometry, 1)
        twin = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(branch))
        for mode in (False, True):
            assert _error(branch.train(mode)(x), twin.train(mode)(x)) <= 1e-10

    def test_a_block_with_it_fuses_by_algebra_and_by_probe(self) -> None:
        @given(data=st.data())
        def check(data: st.DataObject) -> None:
            geometry = self.fitted(data.draw(geometries()))
            name = self.branch.name
            block = RepBlock(geometry.conv(bias=False), nn.BatchNorm2d(geometry.out_channels), [name, f"{name}_2"])
            randomize_block(block, data.draw(_SEEDS)).double().eval()
            assert prove_block(block)[1].error_float64 <= 1e-10
            for ours, theirs in zip(block.equivalent(), probe_block(block), strict=True):
                assert _error(ours, theirs) <= 1e-10

        check()

    def test_a_merged_step_is_the_exact_one_with_all_positions(self) -> None:
        for geometry in (Geometry(4, 4), Geometry(6, 6, (2, 1), (1, 0), groups=3)):
            if self.branch.impossible(geometry) is not None:
                continue
            block = RepBlock(geometry.conv(bias=False), nn.BatchNorm2d(geometry.out_channels), [self.branch.name])
            exact = randomize_block(block, 8).double().train()
            merged = set_step(copy.deepcopy(exact), "merged", sample=10**6)
            x = [_input(geometry, 8).requires_grad_() for _ in range(2)]
            outputs = exact(x[0]), merged(x[1])
            assert _error(*outputs) <= 1e-10
            for out in outputs:
                out.pow(3).sum().backward()
            assert _error(*(each.grad for each in x if each.grad is not None)) <= 1e-8
            for ours, theirs in zip(merged.buffers(), exact.buffers(), strict=True):
                assert torch.allclose(ours, theirs, rtol=1e-10)


def _by_kernel(branch: Branch, x: Tensor) -> Tensor:
    kernel, bias = branch.equivalent()
    g = branch.geometry
    return F.conv2d(x, kernel, bias, g.stride, g.padding, g.dilation, g.groups)


def _somewhere(branch: type[Branch]) -> Geometry:
    places = (Geometry(4, 4), Geometry(4, 6), Geometry(4, 4, groups=4), Geometry(4, 6, kernel=5, padding=(2, 2)))
    return next(geometry for geometry in places if branch.impossible(geometry) is None)


def _input(geometry: Geometry, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sides = ((geometry.kernel - 1) * dilation + 4 for dilation in geometry.dilation)
    return torch.randn((3, geometry.in_channels, *sides), generator=generator, dtype=torch.float64)


def _error(a: Tensor, b: Tensor) -> float:
    return relative_error(a.detach().double().numpy(), b.detach().double().numpy())
