"""Genotypes as data: all published ones are valid, and errors name their location."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from irepdeploy.errors import ModelError
from irepdeploy.network.nets import NETS, build
from irepdeploy.network.nets import genotype as module
from irepdeploy.network.nets.genotype import genotype_of

CELL = {"nodes": [[["sep_conv_3x3", 0], ["skip_connect", 1]], [["max_pool_3x3", 2]]], "concat": [2, 3]}
VALID = {"operations": "darts", "normal": CELL, "reduce": CELL}


def test_every_published_genotype_is_one_and_is_used() -> None:
    published = module._published()
    for name in published:
        found = genotype_of(name)
        assert found.cells or (found.normal and found.reduce)
        assert published[name]["source"]
    assert set(published) == {net.args["genotype"] for net in NETS.values() if "genotype" in net.args}


def test_published_ones_differ() -> None:
    assert len({repr(genotype_of(name)) for name in module._published()}) == len(module._published())


def test_a_genotype_of_one_s_own() -> None:
    found = genotype_of(VALID)
    assert found.cell(3, False).nodes == ((("sep_conv_3x3", 0), ("skip_connect", 1)), (("max_pool_3x3", 2),))
    assert found.cell(3, True).concat == (2, 3) and found.operations.affine
    assert genotype_of({"operations": "goldnas", "cells": [CELL, CELL]}).cell(1, True) == found.normal


def changed(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = copy.deepcopy(VALID)
    for key, item in changes.items():
        if item is None:
            del value[key]
        else:
            value[key] = item
    return value


def of_nodes(nodes: object, concat: object = (2,)) -> dict[str, Any]:
    return changed(reduce={"nodes": nodes, "concat": list(concat)})  # type: ignore[call-overload]  # bad ones too


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("darts_v3", r"unknown genotype 'darts_v3' \(did you mean darts_v2"),
        ("zzz", "unknown genotype 'zzz' .one of darts_v2, pdarts"),
        ([], "genotype: expected an object"),
        (changed(operations="enas"), r"operations 'enas' \(one of darts, goldnas\)"),
        (changed(operations=None), "unknown operations None"),
        (changed(operations=["darts"]), r"unknown operations \['darts'\]"),
        (changed(operations={}), "unknown operations {}"),
        (changed(reduce=None), "cells are missing or given twice"),
        (changed(normal=None, reduce=None), "cells are missing or given twice"),
        (changed(cells=[CELL]), "cells are missing or given twice"),
        (changed(auxiliary=True), "expected an object with keys among cells, normal, operations, reduce, source"),
        ({"operations": "darts", "cells": []}, "cells: expected a list that is not empty"),
        ({"operations": "darts", "cells": [CELL, {}]}, "cell 1: expected a list that is not empty"),
        (of_nodes([[["sep_conv_4x4", 0]]]), "reduce: node 2: unknown operation 'sep_conv_4x4'"),
        (of_nodes([[["none", 0]]]), "unknown operation 'none'"),
        (of_nodes([[["skip_connect", 2]]]), "node 2: expected skip_connect to read a node from 0 to 1, got 2"),
        (of_nodes([[["skip_connect", -1]]]), "got -1"),
        (of_nodes([[["skip_connect", True]]]), "got True"),
        (of_nodes([[["skip_connect"]]]), "expected an operation and the node"),
        (of_nodes([[]]), "node 2: expected a list that is not empty"),
        (of_nodes([[["skip_connect", 0]]], (3,)), r"reduce: expected distinct nodes from 0 to 2 in concat, got \[3\]"),
        (of_nodes([[["skip_connect", 0]]], (2, 2)), r"in concat, got \[2, 2\]"),
        (of_nodes([[["skip_connect", 0]]], ()), "concat: expected a list that is not empty"),
    ],
)
def test_an_invalid_genotype_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        genotype_of(value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genotype": "goldnas_s1"}, "expected a genotype of 20 cells, got 14"),
        ({"channels": 35}, "35 channels"),
        ({"channels": 0}, "0 channels"),
        ({"cells": 0}, "0 cells"),
        ({"stem": "large"}, "stem 'large'"),
        ({"genotype": {"operations": "darts"}}, "cells are missing"),
        ({"layers": 3}, "unexpected keyword"),
    ],
)
def test_invalid_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build("darts_cifar", **changes)


def test_genotypes_are_read_only_when_a_network_of_cells_is_built() -> None:
    module._published.cache_clear()
    sizes = []
    for name, args in (("vgg6", {}), ("goldnas_cifar", {"channels": 2})):
        build(name, **args)
        sizes.append(module._published.cache_info().currsize)
    assert sizes == [0, 1]
