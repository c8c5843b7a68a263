"""Search for and train re-parameterization Architectures. The module is callable, as `ird.search(...)`.

    help("irepdeploy.search.functions.search")  # its arguments

A plain function named `search` would be replaced by this module as soon as anything imports the module.
"""

from __future__ import annotations

import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .result import SearchResult


class _Function(types.ModuleType):
    def __call__(self, *args: Any, **settings: Any) -> SearchResult:
        """Run a search on your own network; `help("irepdeploy.search.functions.search")` lists the arguments."""
        from .functions import search

        return search(*args, **settings)

    @property
    def __signature__(self) -> inspect.Signature:
        from .functions import search

        return inspect.signature(search)


sys.modules[__name__].__class__ = _Function
