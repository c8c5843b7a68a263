"""Bench requests: invalid ones are refused before a board is touched."""

from __future__ import annotations

from typing import Any

import pytest

from irepdeploy.errors import InputError
from irepdeploy.jetson.agent.bench_request import parse_bench

MODEL = {"label": "m", "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"models": []}, "models"),
        ({"models": [3]}, "models"),
        ({"runner": "tflite"}, "runner"),
        ({"min_samples": 0}, "min_samples"),
        ({"threads": True}, "threads"),
        ({"power": True}, "power"),
        ({"power": {"seconds": 0.1}}, "power"),
        ({"clocks": "low"}, "clocks"),
        ({"via": "nsys"}, "via"),
        ({"min_seconds": float("nan")}, "min_seconds"),
        ({"nonsense": 1}, "request"),
        ({"runner": "ort-cpu", "build_only": True}, "runner"),
    ],
)
def test_requests_that_are_none(change: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_bench({"models": [MODEL], **change})
    assert caught.value.where == where


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "../../etc/passwd"},
        {"precision": "fp8"},
        {"batch": 0},
        {"dla": "0"},
        {"gate": {"inputs": "0" * 64}},
        {"label": None},
    ],
)
def test_models_that_are_none(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        parse_bench({"models": [{**MODEL, **change}]})


def test_two_models_with_one_label() -> None:
    with pytest.raises(InputError, match="the same label"):
        parse_bench({"models": [MODEL, MODEL]})


def test_what_is_null_was_not_said() -> None:
    request = parse_bench({"models": [MODEL], "power": None, "mode": None, "min_seconds": None, "lifeline": {}})
    assert request == parse_bench({"models": [MODEL], "power": False})
    assert parse_bench({"models": [MODEL], "power": {}}).power == 10.0
