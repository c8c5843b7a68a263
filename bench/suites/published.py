"""Rows of Tables 2 and 3 of the paper, with their networks in the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["CARS", "NAS", "PLAIN", "REP", "TABLE2", "TABLE3", "Family", "PaperRow"]

Family = Literal["plain", "re-parameterized", "NAS"]
PLAIN: Family = "plain"
REP: Family = "re-parameterized"
NAS: Family = "NAS"

_SLIP_RESNET = "the paper's 11.69M are the ImageNet ResNet-18's; the CIFAR one has 11.17M"
_SLIP_REPNAS = "the paper's 11.69M is a slip: a VGG-16 with fused branches has 14.73M, as in the neighbouring rows"


@dataclass(frozen=True)
class PaperRow:
    """A row of the paper: A100, batch 1, fp32. The paper states neither the runner nor whether TF32 was on.

    Attributes:
        label: Label in the paper, with corrected spelling.
        family: "plain" and "NAS" are measured with BN kept and with BN folded, "re-parameterized" fused.
        top1: Top-1 accuracy in percent.
        params_m: Millions of parameters as printed; of training in some rows, of inference in others.
        ms: Latency in milliseconds, or None if the paper prints none.
    """

    label: str
    net: str
    family: Family
    top1: float
    params_m: float | None
    ms: float | None
    top5: float | None = None
    notes: tuple[str, ...] = ()
    top1_source: str = "paper, not measured"


TABLE2 = (
    PaperRow("VGG", "vgg16", PLAIN, 94.12, 14.73, 2.14),
    PaperRow("ResNet-18", "resnet18_cifar", PLAIN, 96.21, 11.69, 4.12, notes=(_SLIP_RESNET,)),
    PaperRow("RepVGG", "repvgg_vgg16", REP, 94.62, 14.73, 1.76),
    PaperRow("RepNAS (VGG)", "repnas_vgg16", REP, 95.43, 11.69, 1.76, notes=(_SLIP_REPNAS,)),
    PaperRow("ACNet", "acnet_vgg16", REP, 94.47, 14.73, 1.76),
    PaperRow("DARTS (second)", "darts_cifar", NAS, 97.24, 3.3, 31),
    PaperRow("P-DARTS", "pdarts_cifar", NAS, 97.50, 3.4, 33),
    PaperRow("GoldNAS", "goldnas_cifar", NAS, 97.39, 3.67, 40),
    PaperRow("CARS", "cars_i_cifar", NAS, 97.38, 3.6, 27),
    PaperRow("AmoebaNet-A", "amoebanet_a_cifar", NAS, 96.60, 3.2, 38),
    PaperRow("IrepResNet-18", "irep_resnet18_cifar", REP, 96.61, 11.69, 3.93, notes=(_SLIP_RESNET,)),
    PaperRow("IrepVGG-16", "irep_vgg16", REP, 95.65, 14.73, 1.76),
)

TABLE3 = (
    PaperRow("ResNet-18", "resnet18", PLAIN, 69.76, 11.69, 4.25, 89.07),
    PaperRow("ResNet-34", "resnet34", PLAIN, 73.31, 21.80, 6.12, 91.42),
    PaperRow("ResNet-50", "resnet50", PLAIN, 76.10, 25.56, 7.54, 93.29),
    PaperRow("DyRep (ResNet-18)", "dyrep_resnet18", REP, 71.58, 16.90, 3.59),
    PaperRow("DyRep (ResNet-34)", "dyrep_resnet34", REP, 74.68, 33.10, 5.15),
    PaperRow("DyRep (ResNet-50)", "dyrep_resnet50", REP, 77.08, 31.50, 6.14),
    PaperRow("DBB (ResNet-18)", "dbb_resnet18", REP, 70.99, 26.30, 3.59),
    PaperRow("DBB (ResNet-34)", "dbb_resnet34", REP, 74.33, 49.90, 5.15),
    PaperRow("DBB (ResNet-50)", "dbb_resnet50", REP, 76.71, 40.70, 6.14),
    PaperRow("DARTS (second)", "darts", NAS, 73.30, 4.70, 67.4, 91.3),
    PaperRow("P-DARTS", "pdarts", NAS, 75.60, 4.90, 62.3, 92.6),
    PaperRow("GoldNAS", "goldnas", NAS, 76.10, 6.40, 39.4, 92.7),
    PaperRow("CARS", "cars_i", NAS, 75.20, 5.10, 59.9, 92.5),
    PaperRow("IrepResNet-18", "irep_resnet18", REP, 71.57, 18.23, 3.59, 89.98),
    PaperRow("IrepResNet-34", "irep_resnet34", REP, 74.91, 36.12, 5.15, 92.12),
    PaperRow("IrepResNet-50", "irep_resnet50", REP, 77.92, 29.04, 6.14, 93.88),
)

_CARS = "its repository, not measured"


def _cars(letter: str, params_m: float | None, top1: float) -> PaperRow:
    net = f"cars_{letter}" if params_m is not None else f"cars_lat_{letter}"
    label = f"CARS-{letter.upper()}" if params_m is not None else f"CARS-Lat-{letter.upper()}"
    return PaperRow(label, net, NAS, top1, params_m, None, top1_source=_CARS)


# Networks of CARS that are not in the paper, including those searched for latency, with the accuracies from its
# repository.
CARS = (
    _cars("a", 3.7, 72.8),
    _cars("b", 4.0, 73.1),
    _cars("c", 4.2, 73.3),
    _cars("d", 4.3, 73.3),
    _cars("e", 4.4, 73.7),
    _cars("f", 4.5, 74.1),
    _cars("g", 4.7, 74.2),
    _cars("h", 4.8, 74.7),
    _cars("a", None, 62.6),
    _cars("b", None, 67.4),
    _cars("c", None, 69.5),
    _cars("d", None, 71.9),
    _cars("e", None, 72.2),
    _cars("f", None, 74.0),
)
