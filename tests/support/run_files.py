"""Files that commands leave: whether each can be read, and their content apart from times."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from irepdeploy.errors import CheckFailed, IrepdeployError
from irepdeploy.network.checkpoint import load
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.recipe import load_recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs import record
from irepdeploy.runs.comparison import SearchComparison
from irepdeploy.runs.journal import read_events
from irepdeploy.runs.pareto import ParetoSet
from irepdeploy.runs.result import SearchFigures, TrainingResult
from irepdeploy.verify.certificate import Certificate

__all__ = ["contents", "damage", "left_over", "visible"]

# Fields that depend on a clock, and digests and sizes of files that contain such fields.
_CLOCKS = {
    "created",
    "device_days",
    "epoch_seconds",
    "images_per_second",
    "seconds",
    "seconds_per_epoch",
    "started",
    "time",
}
_DIGESTS = {"check", "digest", "journal", "sha256"}


def visible(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by their relative names, without hidden ones."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if not any(part.startswith(".") for part in Path(name).parts)}


def left_over(folder: Path) -> list[str]:
    """Return the names of temporary files and folders."""
    return [path.name for path in folder.rglob(".*") if path.name.startswith(".irepdeploy-")]


def damage(folder: Path) -> str | None:
    """Return why a file in the folder cannot be read, or None.

    A journal or a file of records may end with a torn line, and files of a certificate may be missing, but not differ.
    """
    for name, path in visible(folder).items():
        try:
            _read(path)
        except (IrepdeployError, ValueError, zipfile.BadZipFile) as error:
            return f"{name}: {error}"
    return None


def contents(folder: Path) -> dict[str, Any]:
    """Return the content of every visible file, without fields that depend on a clock."""
    return {name: _content(path) for name, path in visible(folder).items()}


def _read(path: Path) -> None:
    if path.name == "state.pt":
        assert zipfile.ZipFile(path).testzip() is None
    elif path.suffix == ".pt":
        load(path)
    elif path.suffix == ".onnx":
        open_model(path)
    elif path.suffix == ".jsonl":
        # Readers skip bad lines, but here only the last one may be bad.
        for line in path.read_bytes().split(b"\n")[:-1]:
            json.loads(line)
        _ = list(read_events(path)) if path.name == "journal.jsonl" else record.read(path)
    elif path.name == "result.json":
        (SearchFigures if "best_digest" in path.read_text() else TrainingResult).read(path)
    elif path.name == "certificate.json":
        try:
            Certificate.load(path).check_files(path.parent)
        except CheckFailed as error:
            if "certified, but no such file" not in str(error):
                raise
    elif path.name in ("compare.json", "pareto.json"):
        (SearchComparison if path.name == "compare.json" else ParetoSet).read(path)
    elif path.suffix == ".json":
        Architecture.load(path)
    elif path.suffix == ".yaml":
        load_recipe(path)
    elif path.suffix == ".html":
        if not path.read_text().rstrip().endswith("</html>"):
            raise ValueError("half a page")
    elif path.suffix not in (".csv", ".md", ".png"):
        raise ValueError("a file that no command leaves")


def _content(path: Path) -> Any:
    if path.suffix == ".pt":
        return _plain(torch.load(io.BytesIO(path.read_bytes()), weights_only=True))
    if path.suffix == ".json":
        return _plain(json.loads(path.read_bytes()))
    if path.suffix == ".jsonl":
        return [_plain(json.loads(line)) for line in path.read_bytes().splitlines()]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(value: Any) -> Any:
    """Return a nested value with tensors as digests of their bytes."""
    if isinstance(value, torch.Tensor):
        array = np.ascontiguousarray(value.numpy())
        return str(value.dtype), tuple(value.shape), hashlib.sha256(array.tobytes()).hexdigest()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key not in _CLOCKS | _DIGESTS}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
