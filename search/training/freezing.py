"""Freezing of backbone stages and of batch-normalization statistics during training."""

from __future__ import annotations

from torch import nn

from irepdeploy.detect.detector import Detector
from irepdeploy.errors import RecipeError
from irepdeploy.recipe import FreezeSection
from irepdeploy.reparam.normalization import NORMS

__all__ = ["Freeze"]


class Freeze:
    """Frozen parts of a detector, with their branches.

    Weights of frozen stages get no gradient from now on. `apply` keeps the statistics. Blocks whose statistics are
    frozen compute one exact convolution in train mode (see `RepBlock`), so branches cost little.

    Raises:
        RecipeError: The network has no backbone, or fewer stages than are to be frozen.
    """

    def __init__(self, net: nn.Module, section: FreezeSection) -> None:
        self._norms: list[nn.Module] = []
        if not section.stages and not section.statistics:
            return
        if not isinstance(net, Detector):
            raise RecipeError(
                f"only the backbone of a detector can be frozen, and {type(net).__name__} has none", where="freeze"
            )
        most = len(net.backbone.strides)
        if section.stages > most:
            raise RecipeError(f"expected at most {most} stages, got {section.stages}", where="freeze.stages")
        frozen = net.backbone.first(section.stages)
        for part in frozen:
            part.requires_grad_(False)
        parts = [net.backbone] if section.statistics else frozen
        self._norms = [module for part in parts for module in part.modules() if isinstance(module, NORMS)]

    def apply(self) -> None:
        """Freeze the statistics; call this whenever the network has been put into train mode."""
        for norm in self._norms:
            norm.eval()
