"""Statistics of the middle batch normalization over several ranks are those of one process with the whole batch."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from irepdeploy.reparam.branches import branch_class
from irepdeploy.reparam.geometry import Geometry
from irepdeploy.reparam.normalization import scale_shift
from irepdeploy.testing.strategies import randomize_block

# SyncBatchNorm itself runs on GPUs only, so the last one is left as it is and the branch is cut behind the middle one.
PROGRAM = """
import sys
import torch
from torch import distributed, nn
from irepdeploy.reparam.normalization import scale_shift

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
torch.set_num_threads(1)
bn, x = torch.load(f"{folder}/whole.pt", weights_only=False)
part = x[: 3] if rank == 0 else x[3:]
part = part.clone().requires_grad_()
scale, shift = scale_shift(bn, part)
y = part * scale[:, None, None] + shift[:, None, None]
weights = torch.load(f"{folder}/weights.pt")
(y * (weights[:3] if rank == 0 else weights[3:])).sum().backward()
torch.save({"y": y.detach(), "grad": part.grad, "buffers": list(bn.buffers())}, f"{folder}/{rank}.pt")
distributed.barrier()
distributed.destroy_process_group()
"""


def test_two_ranks_with_unequal_batches_are_one_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = (5 + torch.randn(5, 4, 7, 6)).double()
    weights = torch.randn(5, 4, 7, 6).double()
    bn = randomize_block(nn.BatchNorm2d(4).double(), 1).train()
    torch.save((nn.SyncBatchNorm.convert_sync_batchnorm(bn), x), tmp_path / "whole.pt")
    torch.save(weights, tmp_path / "weights.pt")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-P", "-W", "error", "-c", PROGRAM, str(rank), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, errors = rank.communicate(timeout=600)
        assert rank.returncode == 0, errors
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    whole = x.clone().requires_grad_()
    y = bn(whole)
    (y * weights).sum().backward()
    assert torch.allclose(torch.cat([part["y"] for part in parts]), y, rtol=1e-10, atol=1e-12)
    assert torch.allclose(torch.cat([part["grad"] for part in parts]), whole.grad, rtol=1e-9, atol=1e-12)
    for part in parts:
        for ours, theirs in zip(part["buffers"], bn.buffers(), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-12)


def test_sync_batch_norm_without_ranks_is_batch_norm() -> None:
    branch = randomize_block(branch_class("conv1x1_3x3")(Geometry(4, 4)), 2).double().train()
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(randomize_block(branch_class("conv1x1_3x3")(Geometry(4, 4)), 2))
    x = torch.randn(3, 4, 6, 5, dtype=torch.float64)
    assert torch.allclose(branch(x), converted.double().train()(x), rtol=1e-10)
    for ours, theirs in zip(converted.buffers(), branch.buffers(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12)


def test_batch_statistics_are_those_of_torch_and_have_their_gradient() -> None:
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(4).double()
    nn.init.normal_(bn.weight)
    nn.init.normal_(bn.bias)
    reference = copy.deepcopy(bn)
    x = (torch.randn(3, 4, 5, 5, dtype=torch.float64) * 2 + 3).requires_grad_()
    scale, shift = (vector.reshape(1, -1, 1, 1) for vector in scale_shift(bn, x))
    torch.testing.assert_close(x * scale + shift, reference(x))
    assert bn.state_dict().keys() == reference.state_dict().keys()
    for name, buffer in bn.named_buffers():
        torch.testing.assert_close(buffer, reference.get_buffer(name))
    assert torch.autograd.gradcheck(lambda x: scale_shift(bn, x), (x,))
