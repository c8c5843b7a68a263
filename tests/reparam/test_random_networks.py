"""Random branches in random networks: insert, fuse, put back; 50 of them here, 10,000 in `make nightly`."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.errors import ModelError, NotFusable
from irepdeploy.reparam.branches import BRANCHES
from irepdeploy.reparam.insert import expandable
from irepdeploy.reparam.presets import PRESETS
from irepdeploy.testing.strategies import randomize_block
from support.networks import blocks
from support.strategies import small_networks

# More than the profiles of conftest.py, because this property covers many; in parts, for both processes of the nightly.
PARTS, EXAMPLES = (1, 25) if settings.default.max_examples <= 25 else (4, 2_500)

BRANCH_SETS = st.one_of(st.sampled_from(sorted(PRESETS)), st.lists(st.sampled_from(sorted(BRANCHES)), unique=True))


@pytest.mark.parametrize("part", range(PARTS))
@settings(max_examples=EXAMPLES)
@given(
    case=small_networks(),
    branches=BRANCH_SETS,
    scaled=st.sampled_from((None, True, False)),
    preserve=st.booleans(),
    seed=st.integers(0, 2**31),
    keep_bn=st.booleans(),
)
def test_insert_and_fuse(
    part: int,
    case: tuple[nn.Module, Tensor],
    branches: str | list[str],
    scaled: bool | None,
    preserve: bool,
    seed: int,
    keep_bn: bool,
) -> None:
    own, x = case
    before = copy.deepcopy(own.state_dict())
    reasons = expandable(own, branches)
    try:
        net = ird.insert_branches(own, branches, scaled=scaled, preserve=preserve)
    except ModelError:
        assert all(reason is not None for reason in reasons.values())
        assume(False)
    assert list(blocks(net)) == [name for name, reason in reasons.items() if reason is None]
    if preserve:
        assert ird.compare(own, net, x).max_rel_error <= 1e-12
    randomize_block(net, seed)
    with torch.no_grad():
        expected = net(x)
    try:
        plain = ird.fuse(net, keep_bn=keep_bn)
    except NotFusable as error:
        assert keep_bn and "no place for the bias" in error.what
        plain = ird.fuse(net)
        keep_bn = False
    with torch.no_grad():
        assert float((plain(x) - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    if keep_bn:
        twin = copy.deepcopy(own)
        twin.load_state_dict(plain.state_dict(), strict=True)
        assert ird.compare(net, twin, x).max_rel_error <= 1e-10
    else:
        again = ird.insert_branches(plain, branches, preserve=True)
        assert ird.compare(plain, again, x).max_rel_error <= 1e-12
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in before.items())


@settings(max_examples=PARTS * EXAMPLES // 6)
@given(case=small_networks(), branches=BRANCH_SETS, seed=st.integers(0, 2**31))
def test_the_fuse_of_trained_float32_networks(
    case: tuple[nn.Module, Tensor], branches: str | list[str], seed: int
) -> None:
    """Train steps with gradients through every branch, then the fuse in float32 with its own proof."""
    own, x = case
    own, x = own.float().train(), x.float()
    if all(reason is not None for reason in expandable(own, branches).values()):
        return
    net = ird.insert_branches(own, branches)
    randomize_block(net, seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        net(x).square().mean().sqrt().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    net.eval()
    plain = ird.fuse(net)
    with torch.no_grad():
        wide = copy.deepcopy(net).double()(x.double())
        limit = 1e-4 * float(wide.abs().max()) + 1e-30
        # Compared with the branches in float64, from which both differ only by rounding.
        assert float((plain(x).double() - wide).abs().max()) <= limit
