"""Fold batch normalizations into the convolutions before them, of any kernel size."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import nn

from irepdeploy.reparam import algebra
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.fusable import check_fusable
from irepdeploy.reparam.fuse import fuse
from irepdeploy.reparam.normalization import Norm, scale_shift
from irepdeploy.reparam.origin import FUSED, origin_of, set_origin
from irepdeploy.reparam.structure import copied_without_hooks, has_hooks, replaced
from irepdeploy.reparam.usage import followers_in_eval
from irepdeploy.reparam.wrappers import unwrapped
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic

__all__ = ["folded"]


def folded(model: nn.Module) -> nn.Module:
    """Return a new network in which batch normalizations are folded into the convolutions before them.

    RepBlocks are fused first. While `fuse` folds only inside blocks, whose kernels are 3x3 to 7x7, this function folds
    into convolutions of every size. Each folded normalization is replaced by an identity. A normalization is kept if it
    is not the only reader of a convolution, for example because it reads a sum. Kernels are scaled in float64 and
    rounded once.

    The result is for inference only: its Origin keeps the inputs and outputs, but not the name in the registry.

    Args:
        model: A network in eval mode; it is not changed.

    Raises:
        NotFusable: The network is in train mode, or has statistics or weights that cannot be folded.
        ModelError: ``forward`` cannot be traced.
    """
    model = unwrapped(model)
    check_fusable(model)
    if any(isinstance(module, RepBlock) for module in model.modules()):
        model = fuse(model, prove=False)
    modules = dict(model.named_modules())
    holders = Counter(id(parameter) for module in modules.values() for parameter in module.parameters(recurse=False))
    replacements: dict[nn.Module, nn.Module] = {}
    for conv_name, bn_name in followers_in_eval(model).items():
        conv, bn = modules[conv_name], modules[bn_name]
        assert isinstance(conv, nn.Conv2d) and isinstance(bn, Norm)
        # Skip modules with hooks, weights shared with another module, and subclasses, which may behave differently.
        watched = has_hooks(conv) or has_hooks(bn)
        if type(conv) is nn.Conv2d and not watched and holders[id(conv.weight)] == 1:
            replacements[conv] = _folded(conv, bn)
            replacements[bn] = nn.Identity().eval()
    bare = replace(origin_of(model), net=None, args={}, factory=None, layers=(), state=FUSED)
    return set_origin(replaced(model, replacements, {}), bare)


@torch.no_grad()
@exact_arithmetic()
def _folded(conv: nn.Conv2d, bn: Norm) -> nn.Conv2d:
    result = copied_without_hooks(conv)
    # On the CPU, because Apple GPUs have no float64.
    wide, norm = conv.weight.cpu().double(), copied_without_hooks(bn).cpu().double()
    bias = None if conv.bias is None else conv.bias.cpu().double()
    kernel, shift = algebra.fold_scale_shift(wide, bias, *scale_shift(norm))
    result.weight.copy_(kernel)
    result.bias = nn.Parameter(shift.to(conv.weight), requires_grad=conv.weight.requires_grad)
    return result
