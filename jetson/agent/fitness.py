"""Fitness: whether a board can do what it is asked, found out before anything of it is touched.

Python 3.8, stdlib only: the board's agent carries this module.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from irepdeploy.errors import MissingError

from .bench_request import BenchModel, BenchRequest
from .board_files import BoardFiles, sudoers_hint
from .cache import AgentCache
from .guard import find_mode

__all__ = ["Switch", "fit", "switch_for"]


class Switch(NamedTuple):
    """What is to be set while it measures: the power mode's number, None to leave it, and whether clocks are held."""

    mode: int | None
    pin: bool


def fit(request: BenchRequest, board: dict[str, Any], cache: AgentCache) -> None:
    """Refuse a request that lacks something here.

    Raises:
        MissingError: a library, program, monitor or DLA core; the hint mends it.
        InputError: a file was not put here.
    """
    wants = {request.runner, request.via, "power" if request.power else None}
    for lack in board["missing"]:
        if lack["for"] in wants:
            raise MissingError(lack["what"], where=f"runner {request.runner}", hint=lack["hint"])
    for model in request.models:
        for digest in _digests(model):
            cache.file(digest)
        if model.dla is not None and model.dla >= (board["dla_cores"] or 0):
            what = f"no DLA core {model.dla}: this board has {board['dla_cores'] or 0}"
            raise MissingError(what, where="--dla", hint="leave it out")


def switch_for(request: BenchRequest, board: dict[str, Any], files: BoardFiles) -> Switch:
    """What to set: what was asked for; unasked, a Jetson's clocks are held where they can be.

    Raises:
        MissingError: it cannot be set here.
        InputError: there is no such mode, or it needs a reboot.
    """
    mode = None if request.mode is None else find_mode(files, request.mode).id
    able = bool(board["can_switch"])
    pin = request.clocks == "max" or (request.clocks is None and board["jetson"] and able)
    if (pin or mode is not None) and not able:
        raise _cannot_switch(files)
    return Switch(mode, pin)


def _digests(model: BenchModel) -> list[str]:
    return [model.sha256] + ([] if model.gate is None else [model.gate["inputs"], model.gate["expected"]])


def _cannot_switch(files: BoardFiles) -> MissingError:
    absent = [name for name in ("nvpmodel", "jetson_clocks") if files.program(name) is None]
    if absent:
        return MissingError(
            f"clocks and power mode cannot be set here: no {' and no '.join(absent)}",
            where="--clocks",
            hint="leave --mode out and give --clocks as-is",
        )
    return MissingError("power mode and clocks need root, and sudo asks for a password", hint=sudoers_hint())
