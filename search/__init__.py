"""Find and train re-parameterization Architectures; the module is the function `ird.search` as well.

    help("irepdeploy.search.functions.search")  # its arguments

A function in its place would be replaced by this module as soon as anything imports it.
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
        """Search a network of your own; `help("irepdeploy.search.functions.search")` shows the arguments."""
        from .functions import search

        return search(*args, **settings)

    @property
    def __signature__(self) -> inspect.Signature:
        from .functions import search

        return inspect.signature(search)


sys.modules[__name__].__class__ = _Function
