"""The protocol of docs/does-it-pay.md as data: networks, conditions, arms, seeds and the grid of settings.

Every setting that affects a result is defined here and fixed before the first run. Changing one requires a new
`version`; records of earlier versions are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from irepdeploy.errors import InputError

from ..suites.table5 import BUDGETS, PAPER

__all__ = [
    "ADDED",
    "ARMS",
    "PROTOCOLS",
    "QUESTIONS",
    "RANKED",
    "SPACE",
    "TRIAL_SEED",
    "Arm",
    "Condition",
    "EqualTime",
    "Network",
    "Protocol",
    "Settings",
    "protocol_of",
]

SPACE = "ireps"
_FRACTION = "2/3"
TRIAL_SEED = 1000


@dataclass(frozen=True)
class Settings:
    """Settings that are tuned for each arm: learning rate, weight decay and schedule."""

    lr: float
    weight_decay: float
    schedule: str

    @property
    def overrides(self) -> list[str]:
        """The settings as overrides of a recipe."""
        weights = [f"train.weights.lr={self.lr:g}", f"train.weights.weight_decay={self.weight_decay:g}"]
        return [*weights, f"train.schedule={self.schedule}"]


@dataclass(frozen=True)
class Arm:
    """One way to train a network.

    Args:
        name: Label of the arm.
        branches: Preset of branches; `SPACE` stands for the paper's candidates for the network.
        budget: Budget of the Architecture. None keeps every branch.
        strategy: Search strategy. None draws the Architecture at random.
        tuned_as: Arm whose trials determine the settings. Default: the arm itself; if it searches, its trials train a
            randomly drawn Architecture.
        warmup: Share of the epochs over which the learning rate rises. None uses the recipe's value.
        changes: Further overrides of the recipe.
    """

    name: str
    branches: str = SPACE
    budget: str | None = None
    strategy: str | None = None
    tuned_as: str | None = None
    warmup: float | None = None
    changes: tuple[str, ...] = ()

    def overrides(self, epochs: int | None) -> list[str]:
        """Return the overrides of the arm, apart from its branches, for a training of this many epochs."""
        rising = [] if self.warmup is None or epochs is None else [max(1, round(self.warmup * epochs))]
        return [*(f"train.warmup_epochs={each}" for each in rising), *self.changes]

    @property
    def tuning(self) -> Arm:
        """The arm whose trials determine the settings of this one."""
        if self.tuned_as is not None:
            return ARMS[self.tuned_as]
        return replace(self, strategy=None)


def _budget_arm(budget: str) -> Arm:
    return Arm(f"des {budget}", budget=budget, strategy="des")


# Changes that may help where branches do not pay. Those that apply to a plain network too are tried on both.
_WARMUP, _AVERAGE = 0.125, "train.ema=0.995"
_HELP = (
    Arm("plain, long warm-up", "none", warmup=_WARMUP),
    Arm("all, long warm-up", warmup=_WARMUP),
    Arm("plain, average", "none", changes=(_AVERAGE,)),
    Arm("all, average", changes=(_AVERAGE,)),
    Arm("all, from zero", changes=("train.branch_init=zero",)),
    Arm("all, rate 0.3", changes=("train.branch_lr=0.3",)),
    Arm("all, no decay", changes=("train.branch_decay=0",)),
    Arm("all, fused at 3/4", changes=("train.fuse_at=0.75",)),
)
# Control for merged steps: the same training with exact ones.
_CONTROL = Arm("all, exact step", tuned_as="all", changes=("train.step=exact",))
ARMS = {
    arm.name: arm
    for arm in (
        Arm("plain", "none"),
        Arm("repvgg", "repvgg"),
        Arm("acnet", "acnet"),
        Arm("dbb", "dbb"),
        Arm("repnas 4/block", "repnas", "4/block", "des"),
        Arm("all", SPACE),
        Arm("drawn 2/3", SPACE, _FRACTION),
        *(
            replace(_budget_arm(budget), tuned_as="drawn 2/3" if budget == _FRACTION else None)
            for budget in BUDGETS[:-1]
        ),
        *(Arm(f"{name} 2/3", SPACE, _FRACTION, name, "drawn 2/3") for name in ("evolution", "topk", "random")),
        *_HELP,
        _CONTROL,
    )
}
QUESTIONS = {
    "2": ("plain", "repvgg", "acnet", "dbb", "repnas 4/block", "all", "drawn 2/3", "des 2/3"),
    "5": ("plain", *(f"des {budget}" for budget in BUDGETS[:-1]), "all"),
    "search": ("random 2/3", "des 2/3", "evolution 2/3", "topk 2/3", "drawn 2/3"),
    "axes": ("plain", "dbb", "all"),
    "helps": ("plain", "all", *(arm.name for arm in _HELP)),
    "step": ("all", _CONTROL.name),
    "time": ("plain", "dbb", "all"),
    # Table 1 needs no training.
    "1": (),
}
# Questions that only apply to merged steps.
_OF_MERGED = ("step", "time")
# Questions added later: their cells come last, so that jobs already started keep their shares.
ADDED = ("helps", "step", "time", "1")
# The search whose last population is retrained, to check the supernet's ranking.
RANKED = "random 2/3"


@dataclass(frozen=True)
class Condition:
    """Number of training images and epochs of an arm; None uses the recipe's value."""

    images: int | None = None
    epochs: int | None = None
    batch: int = 128

    @property
    def label(self) -> str:
        """Label such as "10,240 images, 3,200 steps"."""
        if self.images is None or self.epochs is None:
            return "as the recipe"
        return f"{self.images:,} images, {self.epochs * -(-self.images // self.batch):,} steps"

    @property
    def overrides(self) -> list[str]:
        """The condition as overrides of a recipe."""
        images = [] if self.images is None else [f"data.options.train={self.images}"]
        return images + ([] if self.epochs is None else [f"train.epochs={self.epochs}"])


@dataclass(frozen=True)
class EqualTime:
    """A training with branches, and the condition in which a plain network trains about as long, or longer.

    Args:
        arm: Name of the arm with branches.
        condition: Condition of the arm.
        plain: Condition of the plain network, on the same images.
    """

    arm: str
    condition: Condition
    plain: Condition


@dataclass(frozen=True)
class Network:
    """A network, the recipe that trains it, and known figures.

    Args:
        name: Name of the network.
        recipe: Name of a shipped recipe.
        overrides: Overrides of the recipe.
        space: Preset of the paper's candidate branches for the network.
        step_seconds: Seconds of a plain training step on one core. None: not measured or estimated.
        paper: Test accuracy in percent reported by the paper, by arm.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    space: str = SPACE
    step_seconds: float | None = None
    paper: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Protocol:
    """Definition of all trainings; `axes` are the conditions other than the main one.

    `equal_time` are the trainings of the question "time", in merged steps.
    """

    name: str
    networks: tuple[Network, ...]
    questions: tuple[str, ...] = ("2", "5", "search")
    main: Condition = Condition()
    axes: tuple[Condition, ...] = ()
    equal_time: tuple[EqualTime, ...] = ()
    # Half of the full factorial design: every learning rate with both decays and both schedules.
    grid: tuple[Settings, ...] = (
        Settings(0.03, 1e-4, "cosine"),
        Settings(0.03, 5e-4, "step"),
        Settings(0.1, 5e-4, "cosine"),
        Settings(0.1, 1e-4, "step"),
        Settings(0.3, 1e-4, "cosine"),
        Settings(0.3, 5e-4, "step"),
    )
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    candidates: int = 24
    candidate_seeds: tuple[int, ...] = (0, 1)
    version: int = 3

    def network(self, name: str) -> Network:
        """Return a network by its name."""
        for each in self.networks:
            if each.name == name:
                return each
        names = ", ".join(each.name for each in self.networks)
        raise InputError(f"unknown network {name!r} in {self.name}", where="--network", hint=f"one of {names}")

    def conditions(self, question: str) -> tuple[Condition, ...]:
        """Return the conditions in which a question compares all of its arms; empty for "time", which pairs them."""
        if question == "time":
            return ()
        return self.axes if question == "axes" else (self.main,)

    def finals(self, question: str) -> Iterator[tuple[Condition, str]]:
        """Yield condition and arm of each final training that a question needs."""
        for condition in self.conditions(question):
            for arm in QUESTIONS[question]:
                yield condition, arm
        for pair in self.equal_time if question == "time" else ():
            yield pair.condition, pair.arm
            yield pair.plain, QUESTIONS[question][0]

    @property
    def merged(self) -> Protocol:
        """The same protocol with merged steps, whose records are kept apart from those of exact steps."""
        step = ("train.step=merged", "search.step=merged")
        networks = tuple(replace(each, overrides=(*each.overrides, *step)) for each in self.networks)
        questions = (*self.questions, *_OF_MERGED)
        return replace(self, name=f"{self.name}, merged step", networks=networks, questions=questions)

    @property
    def smoke(self) -> Protocol:
        """The smallest protocol of this kind, on random data, which checks within minutes that everything runs."""
        first = self.networks[0]
        return replace(
            self,
            name=f"{self.name}, smoke",
            networks=(replace(first, overrides=("scale=smoke",), step_seconds=0.02),),
            main=Condition(24, 2, 12),
            axes=(Condition(24, 3, 12),),
            equal_time=(EqualTime("all", Condition(24, 2, 12), Condition(24, 3, 12)),),
            grid=self.grid[:2],
            seeds=(0, 1),
            candidates=3,
            candidate_seeds=(0,),
        )


def _vgg16() -> tuple[tuple[str, float], ...]:
    known = {"plain": 94.12, "repvgg": 94.62, "acnet": 94.47, "repnas 4/block": 95.43}
    return tuple((known | _budgets("vgg16")).items())


def _budgets(network: str) -> dict[str, float]:
    return {"all" if budget == BUDGETS[-1] else f"des {budget}": top1 for budget, top1 in PAPER[network].items()}


_FASHION = ("train.batch_size=128", "train.warmup_epochs=1")
PROTOCOLS = {
    each.name: each
    for each in (
        Protocol(
            "fashion-mnist",
            (
                Network("compact6", "fashion_mnist", _FASHION, step_seconds=0.037),
                Network("small_vgg6", "fashion_mnist", (*_FASHION, "net.name=small_vgg6"), step_seconds=0.3),
                Network(
                    "small_resnet18",
                    "fashion_mnist",
                    (*_FASHION, "net.name=small_resnet18"),
                    "ireps-resnet-cifar",
                    step_seconds=0.3,
                ),
            ),
            tuple(each for each in QUESTIONS if each not in _OF_MERGED),
            Condition(5_120, 40),
            (
                Condition(5_120, 10),
                Condition(5_120, 120),
                Condition(1_280, 160),
                Condition(20_480, 10),
                Condition(51_200, 12),
            ),
            # A training with merged steps takes 3.0 times as long as a plain one with all nine branches, 2.1 with DBB.
            (
                EqualTime("dbb", Condition(5_120, 40), Condition(5_120, 120)),
                EqualTime("all", Condition(5_120, 40), Condition(5_120, 120)),
                EqualTime("dbb", Condition(5_120, 120), Condition(5_120, 240)),
                EqualTime("all", Condition(5_120, 120), Condition(5_120, 360)),
            ),
        ),
        Protocol(
            "cifar10",
            (
                Network("vgg16", "irep_vgg16_cifar10", paper=_vgg16()),
                Network(
                    "resnet18_cifar",
                    "irep_resnet18_cifar10",
                    space="ireps-resnet-cifar",
                    paper=tuple(({"plain": 96.21} | _budgets("resnet18")).items()),
                ),
            ),
        ),
        Protocol(
            "imagenet",
            tuple(
                Network(f"resnet{layers}", f"irep_resnet{layers}_imagenet", space="ireps-resnet-imagenet", paper=paper)
                for layers, paper in (
                    (18, (("plain", 69.76), ("dbb", 70.99))),
                    (34, (("plain", 73.31), ("dbb", 74.33))),
                    (50, (("plain", 76.10), ("dbb", 76.71))),
                )
            ),
        ),
    )
}


def protocol_of(name: str) -> Protocol:
    """Return the protocol of a data set."""
    if name not in PROTOCOLS:
        raise InputError(f"unknown protocol {name!r}", where="reproduce", hint=f"one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
