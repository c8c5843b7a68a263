"""Open a program that ``torch.export.save`` wrote (``.pt2``) without running code hidden in a hostile file.

torch evaluates expressions of such a file, looks up functions by the names in it, and unpickles some of its members.
Therefore every member, and every text that torch interprets, is checked first.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import CheckpointError, first_line
from irepdeploy.network.archive import check_archive, weights_only
from irepdeploy.reparam.origin import Origin, set_origin, with_inputs

__all__ = ["is_program", "load_program"]

_GRAPH = "models/model.json"
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|\.format_version|\.storage_alignment|models/model\.json|"
    r"data/weights/(?:weight_\d+|model_weights_config\.json)|data/constants/(?:tensor_\d+|model_constants_config\.json)|"
    r"data/sample_inputs/model\.pt|extra/.*"
)
# Functions of tensors and numbers. Custom operators are in libraries that are not loaded here.
_TARGETS = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+(?:\.\w+)?|torch\.ops\.higher_order\.wrap_with_(?:set_grad_enabled|autocast)|"
    r"torch\.sym_\w+|math\.(?:ceil|floor|trunc)|"
    r"_operator\.(?:add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)
_SYMBOLIC = {
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv",
    "CleanDiv", "CeilDiv", "ModularIndexing", "Where", "ToFloat", "FloatTrueDiv", "IntTrueDiv", "CeilToInt",
    "FloorToInt", "TruncToInt", "RoundToInt", "Identity", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality",
    "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "And", "Or", "Not",
}  # fmt: skip
_SYNTAX = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.USub)
_IDENTIFIER = re.compile(r"[\w.:+*<>\[\]-]*", re.ASCII)
_TREES = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None}
# Texts for human readers, which torch does not interpret.
_REMARKS = {"stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "as_string", "guards_code"}


def is_program(content: object) -> bool:
    """Return whether `content` is the bytes of a program that torch exported."""
    if not isinstance(content, bytes) or content[:2] != b"PK":
        return False
    return b"/models/model.json" in content or b"serialized_exported_program.json" in content


def load_program(raw: bytes, where: object) -> fx.GraphModule:
    """Return the program as a network in eval mode, with its inputs in its Origin.

    Raises:
        CheckpointError: The file is damaged, cannot be read by this version of torch, or contains more than a graph of
            torch's own operators.
    """
    check_archive(raw, where=where, hint="export it again with torch.export.save")
    version = _screened(raw, where)
    # torch warns about its own code whenever such a network is copied.
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _loaded(raw, version, where)


def _loaded(raw: bytes, version: str, where: object) -> fx.GraphModule:
    try:
        with weights_only():
            program = torch.export.load(io.BytesIO(raw))
        # Guards are code from the file; versions of torch before 2.9 have none.
        guards = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
        unlifted: Any = program.module(**guards)
    except Exception as error:  # torch raises anything on a file of another version
        raise CheckpointError(
            f"torch {torch.__version__} cannot read this program of torch {version}: {first_line(error)}",
            where=where,
            hint="export it again with torch.export.save",
        ) from error
    graph = unlifted.graph
    for node in graph.nodes:
        # Tracers support the method `size` of a tensor, but not the operator.
        if node.target == torch.ops.aten.sym_size.int:
            node.op, node.target = "call_method", "size"
    # Copied because the module that torch returns refuses eval().
    network = fx.GraphModule(unlifted, graph).eval()
    set_origin(network, Origin(statistics="from the file: a program of torch.export"))
    with_inputs(network, list(_inputs(program)))
    return network


def _inputs(program: torch.export.ExportedProgram) -> Iterator[TensorSpec]:
    """Yield the inputs, with None for the batch.

    The batch is the first symbolic size, and every size with the same symbol. If no size is symbolic, the program runs
    only at the sizes with which it was exported, and a size of 1 is the batch.
    """
    wanted = set(program.graph_signature.user_inputs)
    found: dict[str, torch.Tensor] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in wanted:
            value = node.meta["val"]
            if not isinstance(value, torch.Tensor):
                raise CheckpointError(f"expected tensors as inputs, got {type(value).__name__}", where=node.name)
            found[node.name] = value
    sizes = [size for value in found.values() for size in value.shape]
    batch = next((str(size) for size in sizes if not isinstance(size, int)), "1")
    for name, value in found.items():
        # If several sizes are 1, only the first axis can be the batch.
        places = [place for place, size in enumerate(value.shape) if str(size) == batch]
        axis = places[0] if places and (batch != "1" or places[0] == 0 or len(places) == 1) else None
        shape = tuple(None if place == axis else int(size) for place, size in enumerate(value.shape))
        kind = str(value.dtype).removeprefix("torch.")
        # numpy has no bfloat16, so these inputs are float32 and are cast.
        yield TensorSpec(name, shape, "float32" if kind == "bfloat16" else kind)


def _screened(raw: bytes, where: object) -> str:
    """Check every member and text, and return the version of torch that wrote the program."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = {name.partition("/")[2]: name for name in archive.namelist()}
        if _GRAPH not in members:
            raise CheckpointError(
                "the program was exported by torch before 2.8",
                where=where,
                hint="export it again with a recent torch.export.save",
            )
        odd = next((name for name in members if _MEMBERS.fullmatch(name) is None), None)
        if odd is not None:
            raise CheckpointError(f"refused: {odd} is not a part of a plain program", where=where)
        texts = [json.loads(archive.read(name)) for part, name in members.items() if part.endswith(".json")]
        version = json.loads(archive.read(members[_GRAPH])).get("torch_version", "unknown")
    for text in texts:
        for key, value in _texts("", text):
            if not _harmless(key, value):
                raise CheckpointError(
                    f"refused: the program may run code through {key or 'a key'} {value!r:.80}",
                    where=where,
                    hint="only programs of torch's own operators are supported" if key == "target" else None,
                )
    return version if isinstance(version, str) else "unknown"


def _texts(key: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield every text of a JSON document together with its key, and every key together with ''."""
    waiting: list[tuple[str, object]] = [(key, value)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            for inner, item in value.items():
                yield "", inner
                waiting.append((inner, item))
        elif isinstance(value, list):
            waiting.extend((key, item) for item in value)


def _harmless(key: str, text: str) -> bool:
    if key in _REMARKS:
        return True
    if key == "expr_str":
        return _is_arithmetic(text)
    if key == "target":
        return _TARGETS.fullmatch(text) is not None
    if key in ("in_spec", "out_spec"):
        kinds = [value for name, value in _texts("", json.loads(text)) if name == "type"] if text else []
        return set(kinds) <= _TREES
    return _IDENTIFIER.fullmatch(text) is not None


def _is_arithmetic(text: str) -> bool:
    """Return whether an expression only builds symbols and numbers, so that evaluating it is safe."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in nodes:
        if not isinstance(node, _SYNTAX):
            return False
        if isinstance(node, ast.Name) and node.id not in _SYMBOLIC:
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.isidentifier():
            return False
    return True
