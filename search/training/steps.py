"""Steps of a training: the optimizer and its learning rate, from the recipe or from a user's factories."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from irepdeploy.errors import InputError, IrepdeployError, one_line
from irepdeploy.reparam.block import RepBlock

from ..execution.loop import optimizer_of, set_rate
from .schedule import rate_at

if TYPE_CHECKING:
    from irepdeploy.recipe import TrainSection

__all__ = ["GivenSteps", "OptimizerFactory", "RecipeSteps", "SchedulerFactory", "Steps"]

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], Any]


class Steps(Protocol):
    """An optimizer and its learning rate."""

    optimizer: Optimizer

    def set_rate(self, epoch: int, share: float, step: int = 0) -> None:
        """Set the learning rate. The arguments are those of `schedule.rate_at`."""

    def end_epoch(self) -> None:
        """Finish an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain containers and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state."""


class RecipeSteps:
    """The optimizer and the learning rate of the recipe."""

    def __init__(self, net: nn.Module, settings: TrainSection) -> None:
        self._settings = settings
        branches = _of_branches(net)
        self._apart = bool(branches) and not _alike(settings)
        if not self._apart:
            self.optimizer: Optimizer = optimizer_of(net.parameters(), settings.weights)
            return
        self.optimizer = optimizer_of((each for each in net.parameters() if each not in branches), settings.weights)
        decay = settings.weights.weight_decay * settings.branch_decay
        self.optimizer.add_param_group({"params": list(branches), "weight_decay": decay})

    def set_rate(self, epoch: int, share: float, step: int = 0) -> None:
        """Set the rate of the recipe's schedule, times a factor for the branches."""
        set_rate(self.optimizer, rate_at(self._settings, epoch, share, step))
        if self._apart:
            self.optimizer.param_groups[1]["lr"] *= self._settings.branch_lr

    def end_epoch(self) -> None:
        """Do nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the optimizer's state."""
        self.optimizer.load_state_dict(state)


class GivenSteps:
    """An optimizer made by a factory; its rates follow a scheduler made by a factory, or the recipe's schedule."""

    def __init__(
        self,
        net: nn.Module,
        settings: TrainSection,
        optimizer: OptimizerFactory | None,
        scheduler: SchedulerFactory | None,
    ) -> None:
        if not _alike(settings):
            raise InputError(
                "a custom optimizer or scheduler determines the rate and decay of the branches",
                where="train.branch_lr, train.branch_decay",
                hint="leave these out, and make a group of the branches' parameters",
            )
        # The schedule starts at 1 and multiplies each group's own rate.
        one = settings.weights.model_copy(update={"lr": 1.0})
        self._settings = settings.model_copy(update={"weights": one})
        self.optimizer: Optimizer = (
            optimizer_of(net.parameters(), settings.weights)
            if optimizer is None
            else _made("optimizer", optimizer, list(net.parameters()))
        )
        if not isinstance(self.optimizer, Optimizer):
            raise InputError(
                f"expected a torch optimizer from the factory, got {type(self.optimizer).__name__}", where="optimizer"
            )
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise InputError("LBFGS needs a loss several times a step; here it is computed once", where="optimizer")
        self._start = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._scheduler = None if scheduler is None else _made("scheduler", scheduler, self.optimizer)
        if scheduler is not None and not callable(getattr(self._scheduler, "step", None)):
            raise InputError(
                f"expected a learning-rate scheduler from the factory, got {type(self._scheduler).__name__}",
                where="scheduler",
            )

    def set_rate(self, epoch: int, share: float, step: int = 0) -> None:
        """Set the rates of the recipe's schedule, unless a scheduler does."""
        if self._scheduler is None:
            factor = rate_at(self._settings, epoch, share, step)
            for group, start in zip(self.optimizer.param_groups, self._start, strict=True):
                group["lr"] = start * factor

    def end_epoch(self) -> None:
        """Step the scheduler."""
        if self._scheduler is not None:
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both."""
        scheduler = None if self._scheduler is None else _plain(self._scheduler.state_dict())
        return {"optimizer": self.optimizer.state_dict(), "scheduler": scheduler}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the states of both."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])


def _alike(settings: TrainSection) -> bool:
    """Return whether branches have the same rate and decay as all other parameters."""
    return settings.branch_lr == settings.branch_decay == 1


def _of_branches(net: nn.Module) -> dict[nn.Parameter, None]:
    """Return the parameters of all branches, with alpha and beta, in order."""
    blocks = [module for module in net.modules() if isinstance(module, RepBlock)]
    fixed = {each for block in blocks for each in block.fixed.parameters()}
    return {each: None for block in blocks for each in block.parameters() if each not in fixed}


def _made(what: str, factory: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return factory(argument)
    except IrepdeployError:
        raise
    except Exception as error:  # anything that a user's factory raises
        raise InputError(f"the factory raised {type(error).__name__}: {one_line(error)}", where=what) from error


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state without values that a file cannot hold, such as functions, which the factory recreates."""
    kinds = (bool, int, float, str, list, tuple, dict, torch.Tensor, type(None))
    return {key: value for key, value in state.items() if isinstance(value, kinds)}
