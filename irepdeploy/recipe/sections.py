"""The sections of a recipe: their keys, types, defaults and limits."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    model_serializer,
    model_validator,
)

from irepdeploy.recipe.fields import BatchSize, Budget, Count, Decay, NonNegative, Options, Positive, Probability, Rate

__all__ = [
    "AdamSection", "AugmentSection", "BackboneSection", "DataSection", "EvaluationSection", "FreezeSection",
    "NetSection", "RacingSection", "SearchSection", "Section", "SgdSection", "TrainSection",
]  # fmt: skip


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors, and the values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    # Keys that recipes of earlier versions lack. If they have their defaults, they are omitted from the identity of a
    # run, so that runs of those versions can be resumed.
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


class _Named(Section):
    """A section that names an object of irepdeploy, or a function that creates one."""

    name: str | None = None
    factory: str | None = None

    @property
    def label(self) -> str:
        """The name, or the factory."""
        return self.name if self.name is not None else self.factory or ""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.name is None) == (self.factory is None):
            raise ValueError("expected either name (one of irepdeploy's) or factory (package.module:function)")
        return self


class NetSection(_Named):
    """The network: one of irepdeploy by `name`, or one of your own by `factory`.

    Args:
        name: Name of a network of irepdeploy.
        factory: Function that is called with `args` and returns the network, as ``package.module:function``; or a
            network of a library, as ``timm/NAME``, ``torchvision/NAME`` or ``hf-hub:OWNER/NAME``, followed by
            ``:random`` for random weights.
        args: Arguments of the network or of the factory.
        weights: File from which to load the weights before the run, either a state dict or a checkpoint.
        where: Layers that get branches, as a glob or the name of a module; see `insert_branches`.
    """

    later: ClassVar[tuple[str, ...]] = ("factory", "weights", "where")
    args: Options = {}
    weights: str | None = None
    where: str = "*"

    @property
    def function(self) -> str | None:
        """Name of the user's factory as ``package.module:function``, which commands take as --model, or None."""
        # The names of library networks contain a slash.
        return self.factory if self.factory is not None and "/" not in self.factory else None


class DataSection(_Named):
    """The data: a data set of irepdeploy by `name`, or your own by `factory`.

    Args:
        name: Name of a data set of irepdeploy.
        factory: Function that returns (train, val), (train, val, test), or a dictionary of these and "classes", the
            names of the classes, as ``package.module:function``. Each set has a form that `irepdeploy.search` accepts,
            such as a pair of tensors, a Dataset or a DataLoader.
        root: Folder of the files.
        verify: Whether to check the files of a published data set; false accepts your own files in the same format.
        options: Arguments of the data set or of the factory.
    """

    later: ClassVar[tuple[str, ...]] = ("factory",)
    root: str | None = None
    verify: bool | None = None
    options: Options = {}


class SgdSection(Section):
    """Settings of the optimizer of the weights; in a search the learning rate decays to 0 along a cosine.

    Args:
        lr: Learning rate.
        optimizer: "sgd" with momentum, or "adam" or "adamw" with torch's default betas.
        momentum: Momentum of SGD.
        weight_decay: Weight decay.
        clip: Largest norm of the gradient; by default it is not clipped.
    """

    later: ClassVar[tuple[str, ...]] = ("optimizer",)
    lr: Rate
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: Probability = 0.9
    weight_decay: NonNegative = 0.0
    clip: Rate | None = None


class AdamSection(Section):
    """Settings of Adam, the optimizer of alpha and beta.

    Args:
        lr: Learning rate.
        betas: Decay of the running averages of the gradient and of its square.
    """

    lr: Rate = 1e-4
    betas: tuple[Decay, Decay] = (0.5, 0.999)


class AugmentSection(Section):
    """Augmentation of training images, in the order of the keys; see `irepdeploy.data.augmentation.Augmentation`.

    Images with boxes support only `flip`, `scales`, `photometric` and `crop_pad`; the last three are only for them.

    Args:
        crop: Padding in pixels on each side, before a random crop to the original size.
        area: Smallest share of the image that a random resized crop covers; 1 disables it.
        flip: Mirror half of the images horizontally.
        randaugment: Number of random operations of RandAugment on each image.
        magnitude: Strength of the operations of RandAugment.
        brightness: Strength b of the brightness jitter; each factor is drawn from 1 - b to 1 + b.
        contrast: Strength of the contrast jitter, as for `brightness`.
        saturation: Strength of the saturation jitter, as for `brightness`.
        hue: Largest shift of the hue, in turns.
        cutout: Side in pixels of a square that is set to the mean.
        erase: Probability of setting a rectangle of 2 to 33 % of the image to the mean.
        mixup: Alpha of mixup; 0 disables it.
        cutmix: Alpha of CutMix; 0 disables it.
        scales: Factors, by one of which each batch is resized.
        photometric: Distort the colours as MMDetection's PhotoMetricDistortion does.
        crop_pad: Side in pixels of squares that are cut out around random centres of the stored images, each enlarged
            by one of `scales` and then resized, as in MMDetection's RandomCenterCropPad; 0 disables it.
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
    """Racing: candidates that are unlikely to become parents are dropped early.

    Args:
        share: Share of the search-validation set that is scored per stage; 0 disables racing.
        error: Bound on the probability, per selection, of dropping a candidate that would have become a parent.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    error: Annotated[float, Field(gt=0, lt=1)] = 0.05


class EvaluationSection(Section):
    """How candidates are scored.

    Args:
        mode: "fused" scores networks fused from sums of cached kernels, "fused-bf16" does the same in bfloat16, and
            "multi-branch" is the baseline of Table 1.
        batch_size: Number of images per batch.
        racing: Early dropping of candidates.
    """

    mode: Literal["fused", "fused-bf16", "multi-branch"] = "fused"
    batch_size: Positive = 200
    racing: RacingSection = RacingSection()


class SearchSection(Section):
    """Settings of Algorithm 1.

    Args:
        strategy: Strategy that proposes the next population.
        budget: Share of the possible branches (Eq. 5), or a number per block such as "4/block" (Section 4.4).
        population: Number of candidates.
        warmup_epochs: Epochs of training the whole supernet before the first population.
        evolutions: Number of populations to score.
        epochs_per_evolution: Epochs of training the supernet before each population is scored.
        subnets_per_step: Number of candidates whose gradients are averaged in a step.
        batch_size: Number of images per step.
        weights: Optimizer of the weights.
        arch: Optimizer of alpha and beta.
        parents: Share of the population that is kept.
        offspring: Share of the next population that is created from parents; the rest is sampled.
        crossover: Probability of a crossover, per Architecture.
        mutation: Probability of a mutation, per Architecture.
        mutation_rate: Probability that a mutation flips a bit.
        clamp: Clamp the factors of Eq. 10 at 0.
        step: "exact" computes every branch. "merged" computes each layer of a subnet as one convolution, with
            statistics from a sample of the batch (`set_step`).
        amp: Train the supernet under bfloat16 autocast.
        compile: Compile the steps of the warm-up, which train the whole supernet, with torch.compile. Other steps are
            not compiled, because each subnet would need its own graph.
        split: What several processes divide: "subnets" gives the same result as one process; "batch" is for more GPUs
            than `subnets_per_step`.
        augment: Augmentation of the training images.
        evaluation: Scoring of the candidates.
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
        """Number of candidates of a population that become parents, at least one."""
        return max(1, round(self.parents * self.population))

    @model_validator(mode="after")
    def _shares_fit(self) -> SearchSection:
        if self.parents + self.offspring > 1 + 1e-9:
            raise ValueError(
                f"parents={self.parents} and offspring={self.offspring} add up to more than the whole population"
            )
        return self


class TrainSection(Section):
    """How one network is trained. Settings of branches have no effect on a network without branches.

    Args:
        epochs: Number of epochs.
        batch_size: Number of images per batch.
        weights: Optimizer of the weights.
        accumulate: Number of batches whose gradients are accumulated per step.
        schedule: Schedule of the learning rate, from weights.lr: "cosine" decays to 0, "step" decays to a tenth after
            each third of the epochs, and "constant" does not decay.
        milestones: Epochs, counted from 1, after which the schedule "step" decays instead.
        warmup_epochs: Number of initial epochs over which the learning rate rises.
        warmup_steps: Number of initial batches over which the learning rate rises from a thousandth.
        step: "exact" computes every branch. "merged" computes one convolution per layer, with statistics from a sample
            of the batch (`set_step`).
        drop_path: Final probability of dropping a branch for an image, or for a whole step if that is merged. It rises
            linearly from 0 over the epochs.
        label_smoothing: Share of the target that is spread over all classes.
        ema: Decay of the exponential moving average of the weights, such as 0.999; 0 disables it. The average is
            scored, saved as best.pt and fused.
        amp: Train under bfloat16 autocast.
        compile: Compile the steps with torch.compile. The first step of each batch size takes seconds to minutes
            longer.
        augment: Augmentation of the training images.
        factors: Whether alpha and beta of the branches are trained further, or folded into the branches first.
        branch_init: "default", or "zero" to initialize every branch to zero (gamma and beta of its last normalization).
        branch_lr: Factor of the learning rate of the branches, including alpha and beta.
        branch_decay: Factor of the weight decay of the branches, including alpha and beta.
        fuse_at: Share of the epochs after which the branches are fused, such as 0.75. The training of the plain network
            continues with batch normalizations that preserve its function, and with a reset momentum. By default the
            branches are fused at the end.
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
        """Number of epochs after which the branches are fused, at least 1 and less than all, or None for the end."""
        # 0.29 * 100 is slightly less than 29.
        return None if self.fuse_at is None else min(max(int(self.fuse_at * self.epochs + 1e-9), 1), self.epochs - 1)

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainSection:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"expected warmup_epochs below epochs={self.epochs}, got {self.warmup_epochs}")
        if self.milestones and self.schedule != "step":
            raise ValueError(f"milestones apply only to the schedule step, not to {self.schedule}")
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
        weights: File from which to load the weights of the backbone before the run: a checkpoint of a network with the
            same layers, with branches or fused, or a state dict such as torchvision's.
    """

    weights: str | None = None


class FreezeSection(Section):
    """Parts of a detector that are not trained.

    Args:
        stages: Number of stages of the backbone that are not trained; if it is above 0, neither is the stem. Branches
            of these stages are not trained either.
        statistics: Freeze mean and variance of the backbone's batch normalizations, while gamma and beta are trained.
            Each block then trains as one convolution, exactly.
    """

    stages: Annotated[int, Field(ge=0, le=100, strict=True)] = 0
    statistics: bool = False
