"""The sections of a recipe: their keys, types, defaults and limits."""

from __future__ import annotations

import math
import re
import reprlib
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    model_serializer,
    model_validator,
)

__all__ = [
    "AdamSection", "AugmentSection", "BackboneSection", "DataSection", "EvaluationSection", "FreezeSection",
    "NetSection", "Options", "RacingSection", "SearchSection", "Section", "Seed", "SgdSection", "Threads",
    "TrainSection",
]  # fmt: skip


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, and values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    # Keys that recipes of earlier versions lack. With their defaults they are left out of what identifies a run, so
    # that runs of those versions resume.
    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _written(self, handler: Any, info: SerializationInfo) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        whole = bool(info.context)
        fields = type(self).model_fields
        old = (key for key in self.later if not whole and getattr(self, key) == fields[key].default)
        for key in old:
            found.pop(key, None)
        return found


def _budget(value: str) -> str:
    number, per_block, rest = value.partition("/block")
    if per_block:
        if rest or not re.fullmatch("0*[1-9][0-9]{0,5}", number):
            raise ValueError(f"{reprlib.repr(value)} is not a number of branches per block such as 4/block")
        return value
    # Fraction would compute the power of ten of 1e-999999999.
    if not re.fullmatch("-?([0-9]{1,9}/0*[1-9][0-9]{0,8}|[0-9]{0,9}[.]?[0-9]{1,18})", value):
        raise ValueError(
            f"{reprlib.repr(value)} is neither a fraction such as 2/3 nor a number per block such as 4/block"
        )
    if not 0 < Fraction(value) <= 1:
        raise ValueError(f"{value} is impossible: a share of the possible branches is above 0 and at most 1")
    return value


def _plain(value: Any) -> Any:
    """Refuse what JSON, and with it a journal, cannot hold."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _plain(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected finite numbers, got {value}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("expected numbers of at most 64 bits")
    return value


# Integers are strict; floats are not, so that 1 counts as one. The upper limits are beyond any practical use.
Positive = Annotated[int, Field(gt=0, le=1_000_000, strict=True)]
Count = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
# Batch statistics need at least two images.
BatchSize = Annotated[int, Field(ge=2, le=1_000_000, strict=True)]
Options = Annotated[dict[str, Any], AfterValidator(_plain)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
Threads = Annotated[int, Field(gt=0, le=1024, strict=True)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
# Close to the largest float32.
_LARGEST = 1e38
Rate = Annotated[float, Field(gt=0, le=_LARGEST, allow_inf_nan=False)]
Budget = Annotated[str, BeforeValidator(lambda value: str(value)), AfterValidator(_budget)]


class _Named(Section):
    """A section that names something of irepdeploy, or a function that makes it."""

    name: str | None = None
    factory: str | None = None

    @property
    def label(self) -> str:
        """The name, or the factory."""
        return self.name if self.name is not None else self.factory or ""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.name is None) == (self.factory is None):
            raise ValueError("expected either name, one of irepdeploy's, or factory, package.module:function")
        return self


class NetSection(_Named):
    """The network: one of irepdeploy by `name`, or one of your own by `factory`.

    Args:
        factory: ``package.module:function``, which is called with `args` and returns the network; or a network of a
            library: ``timm/NAME``, ``torchvision/NAME`` or ``hf-hub:OWNER/NAME``, with ``:random`` untrained.
        weights: file that the weights are read from before the run: a state dict or a checkpoint.
        where: layers that take part, as in `insert_branches`: a glob, or the name of a module.
    """

    later: ClassVar[tuple[str, ...]] = ("factory", "weights", "where")
    args: Options = {}
    weights: str | None = None
    where: str = "*"

    @property
    def function(self) -> str | None:
        """``package.module:function`` of a user's network, which commands take as --model."""
        # Networks of libraries have a slash.
        return self.factory if self.factory is not None and "/" not in self.factory else None


class DataSection(_Named):
    """The data: a data set of irepdeploy by `name`, or your own by `factory`; `options` are arguments of either.

    Args:
        factory: ``package.module:function`` that returns (train, val), (train, val, test), or a dictionary of these and
            "classes", the names of the classes. Each set is what `irepdeploy.search` takes: a pair of tensors, a
            Dataset, a DataLoader, ...
        root: folder of the files.
        verify: false accepts your own files in the published format.
    """

    later: ClassVar[tuple[str, ...]] = ("factory",)
    root: str | None = None
    verify: bool | None = None
    options: Options = {}


class SgdSection(Section):
    """Settings of SGD with momentum for the weights; in a search the learning rate falls to 0 along a cosine.

    Args:
        lr: learning rate.
        optimizer: "adam" or "adamw" takes Adam instead, with torch's betas.
        momentum: of SGD only.
        clip: largest norm of the gradient.
    """

    later: ClassVar[tuple[str, ...]] = ("optimizer",)
    lr: Rate
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: Probability = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)] = 0.0
    clip: Rate | None = None


class AdamSection(Section):
    """Settings of Adam for alpha and beta."""

    lr: Rate = 1e-4
    betas: tuple[Decay, Decay] = (0.5, 0.999)


class AugmentSection(Section):
    """Augmentation of training images: see `irepdeploy.data.augmentation.Augmentation`.

    Images with boxes take `flip`; `scales`: factors, of which each batch is resized by one; `photometric`: other
    colours, as MMDetection's PhotoMetricDistortion gives; `crop_pad`: the side of squares that are cut out about random
    centres of the stored images, each larger by one of `scales` and then resized, as by its RandomCenterCropPad.
    """

    later: ClassVar[tuple[str, ...]] = (
        "randaugment", "magnitude", "brightness", "contrast", "saturation", "hue", "erase", "mixup", "cutmix", "scales",
        "photometric", "crop_pad",
    )  # fmt: skip
    crop: Count = 0
    area: Annotated[float, Field(gt=0, le=1)] = 1.0
    flip: bool = False
    randaugment: Annotated[int, Field(ge=0, le=16, strict=True)] = 0
    magnitude: Annotated[float, Field(ge=0, le=30)] = 9.0
    brightness: Probability = 0.0
    contrast: Probability = 0.0
    saturation: Probability = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    cutout: Count = 0
    erase: Probability = 0.0
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0
    scales: Annotated[tuple[Annotated[float, Field(gt=0, le=16)], ...], Field(max_length=100)] = ()
    photometric: bool = False
    crop_pad: Annotated[int, Field(ge=0, le=4096, strict=True)] = 0


class RacingSection(Section):
    """Racing: early dropping of candidates that cannot become parents.

    Args:
        share: part of the search-validation set that is scored per stage; 0 disables racing.
        error: bound on the probability, per selection, of dropping a candidate that would have become a parent.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    error: Annotated[float, Field(gt=0, lt=1)] = 0.05


class EvaluationSection(Section):
    """How candidates are scored.

    Modes: "fused", sums of cached kernels; "fused-bf16", the same in bfloat16; "multi-branch", the baseline of Table 1.
    """

    mode: Literal["fused", "fused-bf16", "multi-branch"] = "fused"
    batch_size: Positive = 200
    racing: RacingSection = RacingSection()


class SearchSection(Section):
    """Settings of Algorithm 1.

    Args:
        strategy: how the next population is made: "des", "evolution", "topk" or "random".
        budget: share of the possible branches (Eq. 5), or a number per block such as "4/block" (Section 4.4).
        population: number of candidates.
        warmup_epochs: epochs that train the whole supernet first.
        evolutions: number of populations that are scored.
        epochs_per_evolution: epochs of the supernet before each population is scored.
        subnets_per_step: candidates whose gradients are averaged in a step.
        arch: settings of alpha and beta.
        parents: share of the population that is kept.
        offspring: share of the next population that is made from parents; the rest is sampled.
        crossover: probability of a crossover, per Architecture.
        mutation: probability of a mutation, per Architecture.
        mutation_rate: probability that a mutation flips a bit.
        clamp: keep the factors of Eq. 10 from going below 0.
        step: "merged" computes a subnet as one convolution a layer, with statistics from a sample of the batch
            (`set_step`).
        amp: run the supernet's steps under bfloat16 autocast.
        compile: run the steps of the warm-up, which train the whole supernet, through torch.compile; each subnet would
            be a graph of its own.
        split: what several processes divide: "subnets", with the same result as one process, or "batch", for more GPUs
            than `subnets_per_step`.
    """

    later: ClassVar[tuple[str, ...]] = ("step", "compile")
    strategy: Literal["des", "evolution", "topk", "random"] = "des"
    budget: Budget = "2/3"
    population: Annotated[int, Field(strict=True, ge=2, le=100_000)] = 64
    warmup_epochs: Count = 5
    evolutions: Positive = 20
    epochs_per_evolution: Positive = 1
    subnets_per_step: Positive = 5
    batch_size: BatchSize = 64
    weights: SgdSection = SgdSection(lr=0.05, weight_decay=3e-4, clip=5.0)
    arch: AdamSection = AdamSection()
    parents: Probability = 0.25
    offspring: Probability = 0.5
    crossover: Probability = 0.5
    mutation: Probability = 0.5
    mutation_rate: Probability = 0.1
    clamp: bool = True
    step: Literal["exact", "merged"] = "exact"
    amp: bool = False
    compile: bool = False
    split: Literal["subnets", "batch"] = "subnets"
    augment: AugmentSection = AugmentSection()
    evaluation: EvaluationSection = EvaluationSection()

    @property
    def parent_count(self) -> int:
        """How many candidates of a population become parents, at least one."""
        return max(1, round(self.parents * self.population))

    @model_validator(mode="after")
    def _shares_fit(self) -> SearchSection:
        if self.parents + self.offspring > 1 + 1e-9:
            raise ValueError(
                f"parents={self.parents} and offspring={self.offspring} are more than the whole population"
            )
        return self


class TrainSection(Section):
    """How one network is trained.

    Args:
        accumulate: number of batches of `batch_size` images whose gradients are accumulated per step.
        schedule: learning-rate schedule from weights.lr: "cosine" to 0, "step" to a tenth after each third of the
            epochs, or "constant".
        milestones: epochs, counted from 1, after which a "step" schedule falls to a tenth instead.
        warmup_epochs: number of initial epochs over which the learning rate rises.
        warmup_steps: number of initial batches over which it rises from a thousandth.
        step: "exact" computes every branch, "merged" one convolution a layer, with statistics from a sample of the
            batch (`set_step`).
        drop_path: final probability of dropping a branch for an image, or for a whole step if that is merged; it rises
            linearly from 0 over the epochs.
        label_smoothing: share of the target that is spread over all classes.
        ema: decay of the exponential moving average of the weights, such as 0.999; 0 disables it. The average is
            scored, saved as best.pt and fused.
        amp: train under bfloat16 autocast.
        compile: run the steps through torch.compile; the first step of each batch size takes seconds to minutes longer.
        factors: whether alpha and beta of the branches are trained further or folded in first.
        branch_init: "default", or "zero" to start every branch at zero (gamma and beta of its last normalisation).
        branch_lr: factor of the learning rate for the branches, with alpha and beta.
        branch_decay: factor of the weight decay for the branches, with alpha and beta.
        fuse_at: share of the epochs after which the branches are fused, such as 0.75; the plain network is trained on
            with batch normalisations that leave it the same function, and with a new momentum. None: at the end.

    What concerns branches has no effect on a network without any.
    """

    later: ClassVar[tuple[str, ...]] = (
        "step", "compile", "branch_init", "branch_lr", "branch_decay", "fuse_at", "milestones", "warmup_steps",
    )  # fmt: skip
    epochs: Positive = 100
    batch_size: BatchSize = 64
    weights: SgdSection = SgdSection(lr=0.05, weight_decay=3e-4, clip=5.0)
    accumulate: Positive = 1
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[Positive, ...] = ()
    warmup_epochs: Count = 0
    warmup_steps: Count = 0
    step: Literal["exact", "merged"] = "exact"
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Decay = 0.0
    amp: bool = False
    compile: bool = False
    augment: AugmentSection = AugmentSection()
    factors: Literal["trainable", "folded"] = "trainable"
    branch_init: Literal["default", "zero"] = "default"
    branch_lr: Annotated[float, Field(gt=0, le=1000)] = 1.0
    branch_decay: Annotated[float, Field(ge=0, le=1000)] = 1.0
    fuse_at: Annotated[float, Field(gt=0, lt=1)] | None = None

    @property
    def fused_epochs(self) -> int | None:
        """The number of epochs after which the branches are fused, at least 1 and less than all; None: at the end."""
        # 0.29 * 100 is slightly less than 29.
        return None if self.fuse_at is None else min(max(int(self.fuse_at * self.epochs + 1e-9), 1), self.epochs - 1)

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainSection:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} leaves nothing of {self.epochs} epochs")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"milestones are of the schedule step, not of {self.schedule}")
        return self

    @model_validator(mode="after")
    def _fuses_in_time(self) -> TrainSection:
        if self.fuse_at is not None and self.epochs < 2:
            raise ValueError(f"fuse_at={self.fuse_at:g} needs at least 2 epochs, got {self.epochs}")
        if self.fuse_at is not None and self.ema:
            raise ValueError(
                f"fuse_at={self.fuse_at:g} and ema={self.ema:g}: an average cannot be fused midway; choose one"
            )
        return self


class BackboneSection(Section):
    """The backbone of a detector.

    Args:
        weights: file that its weights are read from before the run: a checkpoint of a network with the same layers,
            with its branches or fused, or a state dict such as torchvision's.
    """

    weights: str | None = None


class FreezeSection(Section):
    """What the training of a detector keeps as it is.

    Args:
        stages: the stem and so many stages of the backbone are not trained, and neither are their branches.
        statistics: the backbone's batch normalisations keep mean and variance, while gamma and beta train. Blocks then
            train as one convolution each, exactly.
    """

    stages: Annotated[int, Field(ge=0, le=100, strict=True)] = 0
    statistics: bool = False
