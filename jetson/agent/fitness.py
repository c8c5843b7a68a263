"""Check that a board can fulfil a request before anything on it is changed."""

from __future__ import annotations

from typing import Any, NamedTuple

from irepdeploy.board.board_files import BoardFiles, sudoers_hint
from irepdeploy.errors import MissingError

from .bench_request import BenchModel, BenchRequest
from .board import PROGRAMS
from .cache import AgentCache
from .guard import find_mode

__all__ = ["Switch", "fit", "switch_for"]


class Switch(NamedTuple):
    """The settings of a run: the number of the power mode (None to keep it), and whether to lock the clocks."""

    mode: int | None
    pin: bool


def fit(request: BenchRequest, board: dict[str, Any], cache: AgentCache) -> None:
    """Check that the board has everything that a request needs.

    Raises:
        MissingError: Something is missing on the board.
        InputError: The request does not fit the board.
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
            raise MissingError(what, where="--dla", hint="omit it")


def switch_for(request: BenchRequest, board: dict[str, Any], files: BoardFiles) -> Switch:
    """Return the settings of a run: those requested and, by default, locked clocks on a Jetson that permits it."""
    mode = None if request.mode is None else find_mode(files, request.mode).id
    able = bool(board["can_switch"])
    pin = request.clocks == "max" or (request.clocks is None and board["jetson"] and able)
    if (pin or mode is not None) and not able:
        raise _cannot_switch(files)
    return Switch(mode, pin)


def _digests(model: BenchModel) -> list[str]:
    return [model.sha256] + ([] if model.gate is None else [model.gate["inputs"], model.gate["expected"]])


def _cannot_switch(files: BoardFiles) -> MissingError:
    absent = [name for name in PROGRAMS if files.program(name) is None]
    if absent:
        return MissingError(
            f"clocks and power mode cannot be set here: no {' and no '.join(absent)}",
            where="--clocks",
            hint="omit --mode and use --clocks as-is",
        )
    return MissingError("power mode and clocks need root, and sudo asks for a password", hint=sudoers_hint())
