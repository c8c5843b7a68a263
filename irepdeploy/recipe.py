"""The schema of a recipe: everything that decides a search and a training, in one YAML file.

Unknown and repeated keys are errors, and all faults are reported together. ``key=value`` overrides use dotted names
(``search.population=8``; a bare name that only one section has is enough; of two for one key the last wins), and
``scale=smoke`` applies a named set of overrides from the recipe itself.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from irepdeploy.errors import RecipeError
from irepdeploy.files import read_bytes
from irepdeploy.limits import DESCRIPTION
from irepdeploy.parsing.validation import faults_of
from irepdeploy.parsing.yaml_text import YamlError, parse_yaml

__all__ = ["Recipe", "load_recipe"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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


class NetSection(_Section):
    """A network of the registry."""

    name: str
    args: Options = {}


class DataSection(_Section):
    """A data set, the folder of its files, and its options (sizes of the parts).

    `verify: false` accepts your own files in the published format.
    """

    name: str
    root: str | None = None
    verify: bool | None = None
    options: Options = {}


class SgdSection(_Section):
    """Settings of SGD with momentum for the weights; the learning rate falls to 0 along a cosine."""

    lr: Rate
    momentum: Probability = 0.9
    weight_decay: Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)] = 0.0
    clip: Rate | None = None


class AdamSection(_Section):
    """Settings of Adam for alpha and beta."""

    lr: Rate = 1e-4
    betas: tuple[Decay, Decay] = (0.5, 0.999)


class AugmentSection(_Section):
    """Augmentation of training images: see `irepdeploy.data.augmentation.Augmentation`."""

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


class RacingSection(_Section):
    """Racing: early dropping of candidates that cannot become parents.

    `share` is the part of the search-validation set that is scored per stage; 0 disables racing. `error` bounds the
    probability, per selection, of dropping a candidate that would have become a parent.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    error: Annotated[float, Field(gt=0, lt=1)] = 0.05


class EvaluationSection(_Section):
    """How candidates are scored.

    Modes: "fused", sums of cached kernels; "fused-bf16", the same in bfloat16; "multi-branch", the baseline of Table 1.
    """

    mode: Literal["fused", "fused-bf16", "multi-branch"] = "fused"
    batch_size: Positive = 200
    racing: RacingSection = RacingSection()


class SearchSection(_Section):
    """Settings of Algorithm 1.

    `budget` is a share of the possible branches (Eq. 5), or a number per block such as "4/block" (Section 4.4). `step`
    "merged" computes a subnet as one convolution a layer, with statistics from a sample of the batch (`set_step`).
    `amp` runs the supernet's steps under bfloat16 autocast. `split` is what several processes divide: "subnets", with
    the same result as one process, or "batch", for more GPUs than `subnets_per_step`.
    """

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


class TrainSection(_Section):
    """How one network is trained.

    Args:
        accumulate: number of batches of `batch_size` images whose gradients are accumulated per step.
        schedule: learning-rate schedule from weights.lr: "cosine" to 0, "step" to a tenth after each third of the
            epochs, or "constant".
        warmup_epochs: number of initial epochs over which the learning rate rises.
        step: "exact" computes every branch, "merged" one convolution a layer, with statistics from a sample of the
            batch (`set_step`).
        drop_path: final probability of dropping a branch for an image, or for a whole step if that is merged; it rises
            linearly from 0 over the epochs.
        label_smoothing: share of the target that is spread over all classes.
        ema: decay of the exponential moving average of the weights, such as 0.999; 0 disables it. The average is
            scored, saved as best.pt and fused.
        amp: train under bfloat16 autocast.
        factors: whether alpha and beta of the branches are trained further or folded in first.
    """

    epochs: Positive = 100
    batch_size: BatchSize = 64
    weights: SgdSection = SgdSection(lr=0.05, weight_decay=3e-4, clip=5.0)
    accumulate: Positive = 1
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: Count = 0
    step: Literal["exact", "merged"] = "exact"
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Decay = 0.0
    amp: bool = False
    augment: AugmentSection = AugmentSection()
    factors: Literal["trainable", "folded"] = "trainable"

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainSection:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs} leaves nothing of {self.epochs} epochs")
        return self


class Recipe(_Section):
    """A whole recipe.

    `threads` is the number of CPU threads of torch, by default torch's own choice. The result depends on it, because it
    changes the order of summation. `device` "auto" is CUDA where available; `deterministic` makes CUDA
    runs repeatable bit for bit, at some cost in speed.
    """

    net: NetSection
    branches: str = "ireps"
    data: DataSection
    seed: Seed = 0
    threads: Threads | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    deterministic: bool = False
    search: SearchSection = SearchSection()
    train: TrainSection = TrainSection()
    scales: dict[str, Options] = {}


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply ``key=value`` overrides.

    Raises:
        RecipeError: All faults of the file and the overrides in one message.
        InputError: The file is missing.
    """
    name = Path(path).name
    try:
        content = parse_yaml(read_bytes(path, "recipe", DESCRIPTION))
    except YamlError as error:
        where = path if error.line is None else f"{path}:{error.line}"
        raise RecipeError(str(error), where=where) from None
    if not isinstance(content, dict):
        raise RecipeError("a recipe is a mapping of keys to values", where=path)
    # A value that an override replaces is checked all the same; what is missing may be given by one.
    faults = _value_faults(content) if overrides else []
    content, wrong = _with_overrides(content, overrides)
    faults += wrong
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        faults += [fault for fault in faults_of(error, list(_keys(Recipe))) if fault not in faults]
    if faults:
        raise RecipeError("; ".join(faults), where=name)
    return recipe


def _value_faults(content: dict[str, Any]) -> list[str]:
    try:
        Recipe.model_validate(content)
    except ValidationError as error:
        return faults_of(error, list(_keys(Recipe)), values_only=True)
    return []


def _with_overrides(content: dict[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Apply overrides to the content, and return the faults found in them."""
    result, faults = _copy(content), []
    scale: list[tuple[str, Any]] = []
    single: list[tuple[str, Any]] = []
    for override in overrides:
        try:
            key, value = _pair(override)
            if key == "scale":
                scale += _scale(content.get("scales"), value)
            else:
                single.append((key, value))
        except RecipeError as error:
            faults.append(error.line)
    for key, value in [*scale, *single]:
        try:
            _set(result, key, value)
        except RecipeError as error:
            faults.append(error.line)
    return result, faults


def _pair(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{override!r} is not key=value", hint="for example search.population=8")
    try:
        return key, parse_yaml(text)
    except YamlError as error:
        raise RecipeError(f"{reprlib.repr(text)} is not a value: {error}", where=key) from None


def _scale(scales: Any, name: Any) -> list[tuple[str, Any]]:
    known = {str(key): value for key, value in scales.items()} if isinstance(scales, dict) else {}
    chosen = known.get(str(name))
    if not isinstance(chosen, dict):
        raise RecipeError(f"no scale {reprlib.repr(name)}", hint=f"one of {', '.join(known) or 'none'}")
    return [(str(key), value) for key, value in chosen.items()]


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    path = _full_key(key).split(".")
    place = content
    for part in path[:-1]:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{part!r} has no keys", where=key)
        place = inner
    place[path[-1]] = value


def _full_key(key: str) -> str:
    known = list(_keys(Recipe))
    free = ("net.args.", "data.options.", "scales.")
    if key in known or key.startswith(free):
        return key
    ends = [full for full in known if full.endswith(f".{key}")]
    if len(ends) == 1:
        return ends[0]
    if len(ends) > 1:
        raise RecipeError(f"{key!r} is ambiguous", hint=f"one of {', '.join(ends)}")
    near = difflib.get_close_matches(key, [*known, *(full.rsplit(".", 1)[-1] for full in known)], n=3)
    hint = (
        f"did you mean {' or '.join(dict.fromkeys(near))}?"
        if near
        else f"the sections are {', '.join(Recipe.model_fields)}"
    )
    raise RecipeError(f"unknown key {key!r}", hint=hint)


def _keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in section.model_fields.items():
        yield prefix + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _keys(info.annotation, f"{prefix}{name}.")


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value
