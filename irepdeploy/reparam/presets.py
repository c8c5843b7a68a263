"""Named sets of branches, as data."""

from __future__ import annotations

from dataclasses import dataclass

from irepdeploy.errors import ArchitectureError, choices
from irepdeploy.reparam.branches import branch_class, possible_branches
from irepdeploy.reparam.geometry import KERNELS, Geometry

__all__ = ["PRESETS", "Preset", "preset_of"]

_IREPS = ("conv1x3", "conv3x1", "conv1x1", "conv1x1_3x3", "conv1x1_avg3x3", "dil1x2", "dil2x1", "dil2x2", "identity")
_REPNAS = ("conv1x1", "conv1x1_3x3", "conv1x1_avg3x3", "conv1x3", "conv3x1", "identity")


@dataclass(frozen=True)
class Preset:
    """A named set of candidate operations.

    Attributes:
        branches: Names of branches.
        depthwise: Names of the branches beside a depthwise convolution, or None for `branches`.
        scaled: Whether alpha and beta scale the branches.
        kernels: Kernel sizes of the convolutions to expand.
        own_bn: Whether the fixed convolution gets its own bias and batch normalization, while the network's batch
            normalization stays outside the block.
    """

    branches: tuple[str, ...]
    depthwise: tuple[str, ...] | None = None
    scaled: bool = False
    kernels: tuple[int, ...] = KERNELS
    own_bn: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all branches that may occur, which are the columns of an Architecture."""
        return tuple(dict.fromkeys(self.branches + (self.depthwise or ())))

    def beside(self, geometry: Geometry) -> tuple[str, ...] | None:
        """Return the branches for a convolution of this geometry, or None if the preset skips it."""
        if geometry.kernel not in self.kernels:
            return None
        names = self.depthwise if geometry.depthwise and self.depthwise is not None else self.branches
        return possible_branches(geometry, names)


PRESETS: dict[str, Preset] = {
    # Section 3.1 of the paper; dilated pairs of taps exist only for 3x3.
    "ireps": Preset(_IREPS, scaled=True, kernels=(3,)),
    "ireps-resnet-cifar": Preset(tuple(b for b in _IREPS if b != "identity"), scaled=True, kernels=(3,)),
    "ireps-resnet-imagenet": Preset(
        tuple(b for b in _IREPS if b not in ("identity", "dil2x2")), scaled=True, kernels=(3,)
    ),
    # Ding et al., 2021.
    "repvgg": Preset(("conv1x1", "identity")),
    # Ding et al., 2019; 7x7 convolutions stay plain.
    "acnet": Preset(("conv1x3", "conv3x1"), kernels=(3, 5)),
    # Ding et al., 2021; kernels of 2 to 6.
    "dbb": Preset(
        ("conv1x1", "idconv1x1_3x3", "conv1x1_avg3x3"), depthwise=("idconv1x1_3x3", "avg3x3"), kernels=(3, 5)
    ),
    # Huang et al., 2022: all branches of a fully grown block; branches are grown and cut during training.
    "dyrep": Preset(_REPNAS, own_bn=True),
    # Zhang et al., 2021: the search space, with four branches per block ("4/block" in a recipe).
    "repnas": Preset(_REPNAS),
    # Vasu et al., 2023: k parallel convolutions, the fixed one among them; S0 has k = 4, the others k = 1.
    "mobileone": Preset(("conv3x3", "conv3x3_2", "conv3x3_3", "conv1x1", "identity")),
    "mobileone-k1": Preset(("conv1x1", "identity")),
    "none": Preset((), kernels=(3,)),
}


def preset_of(branches: str | tuple[str, ...] | list[str]) -> Preset:
    """Return the preset of this name, or create one without alpha and beta from a list of branch names.

    Raises:
        ArchitectureError: The preset or a branch is unknown, or a branch is named twice.
    """
    if isinstance(branches, str):
        if branches not in PRESETS:
            raise ArchitectureError(f"unknown preset {branches!r}", hint=choices(branches, PRESETS))
        return PRESETS[branches]
    for name in branches:
        branch_class(name)
    if len(set(branches)) < len(branches):
        raise ArchitectureError("a branch is named twice", hint="the second one is called NAME_2")
    return Preset(tuple(branches))
