"""Select how blocks compute a training step."""

from __future__ import annotations

from torch import nn

from irepdeploy.errors import InputError, ModelError
from irepdeploy.reparam.block import STEPS, RepBlock, Step
from irepdeploy.reparam.normalization import has_hooks
from irepdeploy.reparam.wrappers import unwrapped

__all__ = ["set_step"]


def set_step(model: nn.Module, step: Step, *, sample: int | None = None) -> nn.Module:
    """Set how the RepBlocks of `model` compute in train mode, in place, and return `model`.

    "exact" computes every branch separately. "merged" computes one convolution whose kernel is the sum of all branches;
    the batch-normalization statistics of each branch, and their gradients, come from a random sample of output
    positions. If no normalization uses batch statistics (all are in eval mode, as in a frozen backbone), both compute
    one exact convolution. Checkpoints do not store the step, and eval mode does not depend on it.

    In a merged step drop-path drops a branch for all images at once, and hooks on parts of a block do not run.
    Custom branches that do not define `linear` run separately.

    Args:
        model: A network with branches, in any wrapper.
        step: "exact" or "merged".
        sample: Number of output positions that each block samples. If it is at least the number of positions, the
            statistics are those of the whole batch. Defaults to 65,536 divided by the number of output channels, but at
            least 256 and at most 2,048; by default a block of which more than half would be sampled takes the exact
            step.

    Returns:
        `model` itself.

    Raises:
        InputError: `step` or `sample` is not valid.
        ModelError: The network has no RepBlock, or has hooks that a merged step would not run.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"expected a torch.nn.Module, got {type(model).__name__}")
    if step not in STEPS:
        raise InputError(f"expected {' or '.join(STEPS)}, got {step!r}", where="step")
    if sample is not None and (not isinstance(sample, int) or isinstance(sample, bool) or sample < 2):
        raise InputError(f"expected a number of at least 2, got {sample!r}", where="sample")
    blocks = {name: module for name, module in unwrapped(model).named_modules() if isinstance(module, RepBlock)}
    if not blocks:
        raise ModelError("the network has no branches", hint="insert_branches(model)")
    for name, block in blocks.items():
        hooked = [part for part, module in block.named_modules() if part and has_hooks(module)]
        if step == "merged" and hooked:
            raise ModelError(
                "the hooks of this module would not run in a merged step",
                where=f"{name}.{hooked[0]}".lstrip("."),
                hint="remove them, or keep the exact step",
            )
    for block in blocks.values():
        block.step, block.sample = step, sample
    return model
