"""Import functions and classes of the user's own code by name, as ``package.module:function``.

Opening a file never runs code that the file names. A checkpoint records the name of its factory, but the factory is
imported automatically only if the user has named it before, with ``--model`` or in a recipe, and the module is still
the same file. These factories are listed in ``$XDG_STATE_HOME/irepdeploy/factories``.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from torch import nn

from irepdeploy.errors import CheckpointError, InputError, IrepdeployError, MissingError, ModelError, one_line
from irepdeploy.limits import DESCRIPTION, read_file
from irepdeploy.reparam.origin import Origin

__all__ = ["Factory", "built", "imported", "is_factory", "load_model_factory", "remembered"]

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


class Factory:
    """A function that builds a network, together with its name.

    Args:
        spec: Name of the function, ``package.module:function``.
        function: The function, which is called when the factory is called.
    """

    def __init__(self, spec: str, function: Callable[..., nn.Module]) -> None:
        self.spec = spec
        self.function = function
        self.__qualname__ = spec
        # Gives the factory the signature of the function.
        self.__wrapped__ = function

    def __call__(self, **args: Any) -> nn.Module:
        """Build the network."""
        return self.function(**args)


def is_factory(text: str | None) -> bool:
    """Return whether `text` has the form ``package.module:function``."""
    # The text may come from a file and appear in a hint that users paste into a shell.
    return text is not None and _NAME.fullmatch(text) is not None


def imported(spec: str, what: str = "function") -> Any:
    """Import the object ``package.module:name``, which runs the code of the module.

    Args:
        spec: Name of the object.
        what: Kind of the object, for error messages.

    Raises:
        InputError: `spec` does not have this form, the module has no such object, or the module raises an error.
        MissingError: There is no such module, or it imports one that is missing.
    """
    if not is_factory(spec):
        raise InputError(f"expected package.module:{what}", where=spec)
    module_name, _, name = spec.partition(":")
    _look_here()
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        # Either the module itself is missing, or one that it imports.
        itself = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
        hint = (
            "run this in its folder, or add the folder to PYTHONPATH"
            if itself
            else "the module needs this import to work"
        )
        if itself and module_name.endswith(".py"):
            hint = f"a module is named without .py: {module_name.removesuffix('.py').replace('/', '.')}:{name}"
        raise MissingError(f"cannot import the module: {one_line(error)}", where=spec, hint=hint) from error
    except (Exception, SystemExit) as error:  # anything that the user's module raises
        text = f"importing the module raised {type(error).__name__}: {one_line(error)}"
        raise ModelError(text, where=spec) from error
    found = getattr(module, name, None)
    if found is None:
        near = difflib.get_close_matches(name, vars(module), n=1)
        meant = f"did you mean {module_name}:{near[0]}?" if near else None
        raise InputError(f"{module_name} has no {what} {name!r}", where=spec, hint=meant)
    return found


def load_model_factory(spec: str) -> Factory:
    """Import a function that the user named as ``package.module:factory``, and record that it was named.

    Raises:
        InputError: `spec` does not name a function, or its module raises an error.
        MissingError: There is no such module.
    """
    if not is_factory(spec):
        raise CheckpointError("expected --model package.module:factory", where=spec)
    function = imported(spec)
    if not callable(function):
        module, _, name = spec.partition(":")
        raise CheckpointError(f"{module} has no function {name!r}: it is a {type(function).__name__}", where=spec)
    file = _file_of(spec)
    if file is not None:
        _remember(spec, file)
    return Factory(spec, function)


def remembered(origin: Origin) -> Factory | None:
    """Return the factory of a checkpoint if the user has named it before, else None without running any code.

    Raises:
        InputError: The factory can no longer be imported.
    """
    spec = origin.factory
    if spec is None or origin.net is not None or not is_factory(spec):
        return None
    file = _file_of(spec)
    return load_model_factory(spec) if file is not None and (spec, file) in _named() else None


def built(model: Callable[[], nn.Module] | nn.Module, origin: Origin, where: object) -> nn.Module:
    """Build a network with a factory; the factory recorded in the checkpoint gets its recorded arguments.

    Raises:
        ModelError: The factory fails.
        CheckpointError: The factory does not return a network.
    """
    same = isinstance(model, Factory) and model.spec == origin.factory and origin.net is None
    try:
        found = model(**origin.args) if same else model()
    except IrepdeployError:
        raise
    except (Exception, SystemExit) as error:  # anything that a user's factory raises
        name = getattr(model, "__qualname__", repr(model))
        raise ModelError(
            f"the model factory {name} raised {type(error).__name__}: {one_line(error)}", where=where
        ) from error
    if not isinstance(found, nn.Module):
        raise CheckpointError(
            f"expected a torch.nn.Module from the model factory, got {type(found).__name__}", where=where
        )
    return found


def _look_here() -> None:
    # Find modules in the current folder, as `python -m` does.
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _file_of(spec: str) -> str | None:
    """Return the file of a module without running it or a parent package, or None if it is not a file."""
    _look_here()
    places: list[str] | None = None
    file = None
    name = ""
    for part in spec.partition(":")[0].split("."):
        name = f"{name}.{part}".lstrip(".")
        try:
            found = PathFinder.find_spec(name, places)
        except (ImportError, ValueError, OSError):
            return None
        if found is None:
            return None
        file, places = found.origin, list(found.submodule_search_locations or ())
    return None if file is None or not os.path.isfile(file) else os.path.realpath(file)


def _list() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "irepdeploy/factories"


def _named() -> set[tuple[str, str]]:
    """Return the factories that the user has named, each with the file of its module."""
    try:
        lines = read_file(_list(), "list of factories", DESCRIPTION).decode().splitlines()
    except (InputError, RuntimeError, UnicodeDecodeError, OSError):  # none yet, or no home folder
        return set()
    return {(spec, file) for spec, tab, file in (line.partition("\t") for line in lines) if tab}


def _remember(spec: str, file: str) -> None:
    if (spec, file) in _named() or not file.isprintable():
        return
    # If this fails, the user has to name the factory again.
    with contextlib.suppress(OSError, RuntimeError):
        path = _list()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as list_:
            list_.write(f"{spec}\t{file}\n")
