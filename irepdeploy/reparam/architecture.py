"""Architecture: a binary matrix of layers by branches that records which branches each convolution keeps.

This module does not import torch, so any program can read an Architecture.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from irepdeploy.errors import ArchitectureError, counted
from irepdeploy.files import canonical_json, read_bytes, sha256, write_json
from irepdeploy.limits import DESCRIPTION
from irepdeploy.parsing.json_text import JsonError, parse_json, sealed, unsealed

__all__ = ["Architecture"]

_FORMAT = "irepdeploy.architecture"
_VERSION = 1
_FIELDS = ("format", "version", "layers", "branches", "matrix")


@dataclass(frozen=True)
class Architecture:
    """The branches kept at each layer.

    Attributes:
        layers: Names of the convolutions, in the order of the network.
        branches: Names of the candidate operations, in a fixed order.
        matrix: One row per layer and one column per branch; 1 keeps the branch, 0 drops it.

    Raises:
        ArchitectureError: A name is repeated, or the matrix does not match the names.
    """

    layers: tuple[str, ...]
    branches: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for kind, names in (("layer", self.layers), ("branch", self.branches)):
            repeated = sorted(name for name, count in Counter(names).items() if count > 1)
            if repeated:
                raise ArchitectureError(f"{kind} named twice: {', '.join(repeated)}")
        if len(self.matrix) != len(self.layers):
            raise ArchitectureError(f"expected {len(self.layers)} rows, one per layer, got {len(self.matrix)}")
        for layer, row in zip(self.layers, self.matrix, strict=True):
            if len(row) != len(self.branches):
                raise ArchitectureError(
                    f"expected {counted(len(self.branches), 'column')}, one per branch, got {len(row)}", where=layer
                )
            if any(bit not in (0, 1) for bit in row):
                raise ArchitectureError("expected only 0 and 1 in the matrix", where=layer)

    @classmethod
    def from_branches(cls, kept: Mapping[str, Iterable[str]], branches: Sequence[str]) -> Architecture:
        """Build an Architecture from the names of the branches kept at each layer.

        Args:
            kept: Names of the kept branches of each layer, in the order of the network.
            branches: Names of all candidate branches, which become the columns.

        Raises:
            ArchitectureError: A layer keeps a branch that is not in `branches`.
        """
        rows = []
        for layer, names in kept.items():
            chosen = set(names)
            unknown = sorted(chosen - set(branches))
            if unknown:
                raise ArchitectureError(f"unknown branch {', '.join(unknown)}", where=layer)
            rows.append(tuple(int(name in chosen) for name in branches))
        return cls(tuple(kept), tuple(branches), tuple(rows))

    @property
    def count(self) -> int:
        """The number of branches kept; Eq. 5 limits it to the branch budget."""
        return sum(map(sum, self.matrix))

    @property
    def digest(self) -> str:
        """SHA-256 of the branches kept at each layer, independent of the order of columns and of unused columns."""
        rows = zip(self.layers, self.matrix, strict=True)
        return sha256(canonical_json([[layer, sorted(self._names(row))] for layer, row in rows]))

    def kept(self, layer: str) -> tuple[str, ...]:
        """Return the branches kept at `layer`, in column order.

        Raises:
            ArchitectureError: The Architecture has no such layer.
        """
        try:
            row = self.matrix[self.layers.index(layer)]
        except ValueError:
            raise ArchitectureError("no such layer in the Architecture", where=layer) from None
        return self._names(row)

    def to_dict(self) -> dict[str, object]:
        """Return a JSON object that `from_dict` reads."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "layers": list(self.layers),
            "branches": list(self.branches),
            "matrix": [list(row) for row in self.matrix],
        }

    @classmethod
    def from_dict(cls, value: object, *, where: object = None) -> Architecture:
        """Read the result of `to_dict`.

        Args:
            value: The JSON object.
            where: The file or place that an error message names.

        Raises:
            ArchitectureError: `value` is not a valid Architecture.
        """
        if not isinstance(value, Mapping) or value.get("format") != _FORMAT:
            raise ArchitectureError(
                "not an Architecture", where=where, hint="`irepdeploy search` writes one: best.json"
            )
        if type(value.get("version")) is not int or value["version"] != _VERSION:
            raise ArchitectureError(
                f"Architecture version {value.get('version')!r}; this irepdeploy reads {_VERSION}", where=where
            )
        try:
            layers, branches, matrix = value["layers"], value["branches"], value["matrix"]
            if not (
                all(isinstance(part, list) for part in (layers, branches, matrix))
                and all(isinstance(name, str) for name in [*layers, *branches])
                and all(type(bit) is int for row in matrix for bit in row)
            ):
                raise TypeError
            return cls(tuple(layers), tuple(branches), tuple(tuple(row) for row in matrix))
        except (KeyError, TypeError):
            raise ArchitectureError("layers, branches or matrix is missing or has a wrong type", where=where) from None
        except ArchitectureError as error:
            raise ArchitectureError(error.line, where=where) from None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the Architecture as JSON with a checksum, and return the path.

        Raises:
            OutputError: The file cannot be written.
        """
        return write_json(path, sealed(self.to_dict()))

    def _names(self, row: Sequence[int]) -> tuple[str, ...]:
        return tuple(name for name, bit in zip(self.branches, row, strict=True) if bit)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Architecture:
        """Read an Architecture file.

        Args:
            path: The file, or the folder of a search, whose best.json is read.

        Raises:
            InputError: The file is missing.
            ArchitectureError: The file is not an Architecture, or was changed after it was written.
        """
        best = Path(path, "best.json")
        path = best if best.is_file() else path
        try:
            value = unsealed(parse_json(read_bytes(path, "Architecture file", DESCRIPTION)), _FIELDS)
        except JsonError as error:
            raise ArchitectureError(str(error), where=path, hint="`irepdeploy search` writes best.json") from None
        return cls.from_dict(value, where=path)
