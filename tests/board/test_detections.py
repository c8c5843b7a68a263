from __future__ import annotations

import numpy as np
import pytest

from irepdeploy.board.comparison import TOLERANCES, Noise, compare_outputs
from irepdeploy.board.detections import are_detections, matched
from irepdeploy.verify.noise import noise_between

Array = np.ndarray


def found(images: int = 3, rows: int = 20, seed: int = 0) -> dict[str, Array]:
    """Return detections by falling score, the last four rows of each image empty."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 50, (images, rows, 2))
    boxes = np.concatenate([corners, corners + random.uniform(3, 20, (images, rows, 2))], 2).astype(np.float32)
    scores = -np.sort(-random.uniform(0.1, 1, (images, rows))).astype(np.float32)
    classes = random.integers(0, 5, (images, rows)).astype(np.int32)
    outputs = {
        "num_dets": np.full((images, 1), rows - 4, np.int32),
        "boxes": boxes,
        "scores": scores,
        "classes": classes,
    }
    for name in ("boxes", "scores", "classes"):
        outputs[name][:, rows - 4 :] = 0
    return outputs


def shuffled(outputs: dict[str, Array], seed: int = 1) -> dict[str, Array]:
    """Return the same detections in another order, followed by garbage."""
    random, other = np.random.default_rng(seed), {name: array.copy() for name, array in outputs.items()}
    for image, count in enumerate(outputs["num_dets"][:, 0]):
        order = random.permutation(count)
        for name in ("boxes", "scores", "classes"):
            other[name][image, :count] = outputs[name][image, order]
            other[name][image, count:] = 7
    return other


def test_the_order_of_detections_means_nothing() -> None:
    a = found()
    aligned, problem = matched(a, shuffled(a))
    assert problem == "" and all(np.array_equal(aligned[name], a[name]) for name in a)
    comparison = compare_outputs(a, shuffled(a), TOLERANCES["float64"])
    assert comparison.ok and [each.top1_note for each in comparison.outputs] == ["compared as sets"] * 4


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("boxes", 0.5, "output 'boxes' differs by"),
        ("scores", 0.05, "output 'scores' differs by"),
        ("classes", 1, "output 'boxes': 2 of 16 detections of input 1 have no counterpart, the best with a score of"),
        ("num_dets", -1, "output 'boxes': 1 of 16 detections of input 1 have no counterpart"),
    ],
)
def test_every_difference_is_found(name: str, change: float, reason: str) -> None:
    a, b = found(), shuffled(found())
    b[name][1, 0] += change
    comparison = compare_outputs(a, b)
    assert not comparison.ok and reason in comparison.reason


def test_rounding_decides_the_end_of_a_list() -> None:
    a, b = found(), shuffled(found())
    last = {name: array.copy() for name, array in a.items()}
    # The last row of an image is a different one with nearly the same score.
    last["boxes"][2, 15] = [1, 1, 2, 2]
    last["scores"][2, 15] -= 2e-5
    assert compare_outputs(last, b).ok and compare_outputs(b, last).ok
    last["boxes"][2, 3] = [1, 1, 2, 2]
    assert "1" in compare_outputs(last, b).reason and not compare_outputs(last, b).ok


def test_networks_that_find_nothing_are_equal() -> None:
    none = {name: np.zeros_like(array) for name, array in found().items()}
    comparison = compare_outputs(none, none)
    assert comparison.ok and comparison.outputs[1].top1_note == "no detections"
    assert not compare_outputs(found(), none).ok and not compare_outputs(none, found()).ok


def test_one_object_twice_is_matched_by_score() -> None:
    a = found(1, 8)
    a["boxes"][0, :4], a["classes"][0, :4] = a["boxes"][0, 0], 2
    aligned, problem = matched(a, shuffled(a))
    assert problem == "" and np.array_equal(aligned["scores"], a["scores"])


def test_noise_is_of_matched_rows() -> None:
    a = found()
    noise = noise_between(a, {"nudged": shuffled(a), "unoptimized": {name: each[:2] for name, each in a.items()}})
    assert noise["boxes"] == Noise(0.0, pytest.approx(1.0), 0.0, 0.0)  # type: ignore[arg-type]


def test_other_outputs_are_no_detections() -> None:
    a = found()
    assert are_detections(a) and not are_detections({**a, "more": a["scores"]})
    assert not are_detections({**a, "boxes": a["boxes"][:, 1:]}) and not are_detections({"scores": a["scores"]})
    with_nan = {**a, "scores": np.where(a["scores"] > 0.9, np.nan, a["scores"])}
    assert not compare_outputs(a, with_nan).ok and not compare_outputs(with_nan, a).ok
    assert "shapes differ" in compare_outputs(a, found(3, 21)).reason


def proposals(rows: int = 50) -> dict[str, Array]:
    """Return proposals of two images; suppression removed the last ten."""
    random = np.random.default_rng(3)
    corners = random.uniform(0, 400, (2, rows, 2))
    rois = np.concatenate([corners, corners + random.uniform(20, 99, (2, rows, 2))], 2).astype(np.float32)
    outputs = {"rois": rois, "boxes": rois[:, :, None] + random.normal(0, 3, (2, rows, 5, 4)).astype(np.float32)}
    scores = random.uniform(0.1, 1, (2, rows, 5)).astype(np.float32)
    scores[:, -10:] = 0
    return {**outputs, "scores": scores}


def permuted(outputs: dict[str, Array]) -> dict[str, Array]:
    order = np.random.default_rng(4).permutation(outputs["rois"].shape[1])
    return {name: array[:, order].copy() for name, array in outputs.items()}


def test_the_order_of_proposals_means_nothing() -> None:
    a = proposals()
    assert compare_outputs(a, permuted(a), TOLERANCES["float64"]).ok
    noise = noise_between(a, {"nudged": permuted(a)})
    assert noise["boxes"].rel_error == 0.0 and noise["scores"].rel_error == 0.0
    removed = permuted(a)
    removed["rois"][removed["scores"].max(2) == 0] += 100
    assert compare_outputs(a, removed).ok


@pytest.mark.parametrize(("name", "change"), [("boxes", 0.3), ("scores", 0.01), ("rois", 1.0)])
def test_every_difference_of_proposals_is_found(name: str, change: float) -> None:
    a, b = proposals(), permuted(proposals())
    b[name][1, b["scores"][1].max(1) > 0] += change
    comparison = compare_outputs(a, b)
    assert not comparison.ok and f"output {name!r} differs by" in comparison.reason


def test_few_proposals_without_a_counterpart_are_rounding_and_many_are_not() -> None:
    a, b = proposals(), permuted(proposals())
    rows = np.flatnonzero(b["scores"][0].max(1))
    b["rois"][0, rows[:2]] += 50
    assert compare_outputs(a, b).ok
    b["rois"][0, rows[:9]] += 50
    comparison = compare_outputs(a, b)
    assert not comparison.ok and "9 of 80 proposals have no counterpart" in comparison.reason
    assert "counterpart" not in compare_outputs(a, b, TOLERANCES["float16"]).reason
    assert not compare_outputs(a, {**b, "scores": b["scores"] * 0}).ok
