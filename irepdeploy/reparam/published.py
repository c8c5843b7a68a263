"""The Architectures that the paper published for ImageNet (Appendix A).

Each row of a matrix is a 3x3 convolution of the residual blocks, in order, and each column a branch; the stem is not
included. The paper does not say which column is which branch. `COLUMNS` is INFERRED: it is the only order that
reproduces the paper's training-time parameters (18.23, 36.12 and 29.04 million) to rounding, if the columns cost 0, 3,
9, 2, 1, 2 and 3 times C_in * C_out, and each kept branch another 3 C_out for bias and batch normalization (without
these: 18.20, 36.06 and 29.01). The paper's count therefore omits the 1x1 convolutions before the average pool and the
3x3; ours includes them (18.87, 37.64 and 29.38 million). Branches of equal cost cannot be distinguished: conv1x3 and
conv3x1 may be swapped, and so may dil1x2 and dil2x1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from irepdeploy.reparam.architecture import Architecture

__all__ = ["COLUMNS", "PUBLISHED"]

COLUMNS = ("conv1x1_avg3x3", "conv1x3", "conv1x1_3x3", "dil1x2", "conv1x1", "dil2x1", "conv3x1")

# One line per stage.
_RESNET18 = """
    1111111 1111111 1111111 1111111
    1101111 1111111 1100000 1101111
    0010000 0000000 0000000 0000000
    0000000 0000000 0000000 1111111
"""
_RESNET34 = """
    1111111 1111111 1111111 1111111 1111111 1111111
    1100010 1111111 1101100 1111111 0010100 1111111 0000000 1111101
    0000000 1000000 0000000 0000000 0010000 1000101 0010100 1011111 0010100 1011111 0000000 1011111
    0010000 0000000 0000000 0000000 0000100 1111111
"""
_RESNET50 = """
    1111111 1111111 1111111
    1111111 1111111 1111111 1111111
    1111111 0010000 0000000 0000000 0000000 0000000
    0000000 0000000 0000000
"""


def _architecture(depths: Sequence[int], convolutions: Sequence[str], matrix: str) -> Architecture:
    layers = tuple(
        f"layer{stage}.{block}.{convolution}"
        for stage, depth in enumerate(depths, 1)
        for block in range(depth)
        for convolution in convolutions
    )
    return Architecture(layers, COLUMNS, tuple(tuple(map(int, row)) for row in matrix.split()))


PUBLISHED: Mapping[str, Architecture] = {
    "irep-resnet18": _architecture((2, 2, 2, 2), ("conv1", "conv2"), _RESNET18),
    "irep-resnet34": _architecture((3, 4, 6, 3), ("conv1", "conv2"), _RESNET34),
    "irep-resnet50": _architecture((3, 4, 6, 3), ("conv2",), _RESNET50),
}
