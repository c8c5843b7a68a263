"""Named sets of branches, as data."""

from __future__ import annotations

from dataclasses import dataclass

from irepdeploy.errors import ArchitectureError
from irepdeploy.reparam.branches import BRANCHES

__all__ = ["PRESETS", "Preset", "preset_of"]

_IREPS = (
    "conv1x3",
    "conv3x1",
    "conv1x1",
    "conv1x1_3x3",
    "conv1x1_avg3x3",
    "dil1x2",
    "dil2x1",
    "dil2x2",
    "identity",
)


@dataclass(frozen=True)
class Preset:
    """Candidate operations, and whether alpha and beta weigh them."""

    branches: tuple[str, ...]
    scaled: bool = False


PRESETS: dict[str, Preset] = {
    "ireps": Preset(_IREPS, scaled=True),
    "ireps-resnet-cifar": Preset(tuple(b for b in _IREPS if b != "identity"), scaled=True),
    "ireps-resnet-imagenet": Preset(tuple(b for b in _IREPS if b not in ("identity", "dil2x2")), scaled=True),
    "repvgg": Preset(("conv1x1", "identity")),
    "acnet": Preset(("conv1x3", "conv3x1")),
    "none": Preset(()),
}


def preset_of(branches: str | tuple[str, ...] | list[str]) -> Preset:
    """The preset of this name, or one made of these branch names (unweighed).

    Raises:
        ArchitectureError: no such preset or branch.
    """
    if isinstance(branches, str):
        if branches not in PRESETS:
            raise ArchitectureError(
                f"no preset {branches!r}", hint=f"one of {', '.join(PRESETS)}, or a list of branches"
            )
        return PRESETS[branches]
    unknown = [name for name in branches if name not in BRANCHES]
    if unknown:
        raise ArchitectureError(f"unknown branch {', '.join(unknown)}", hint=f"one of {', '.join(BRANCHES)}")
    return Preset(tuple(branches))
