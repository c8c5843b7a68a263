"""Match the rows of two sets of detections or proposals, so that they can be compared like any other outputs.

Detectors return boxes in order of decreasing score. If two scores are nearly equal, rounding decides which box comes
first, and at the end of the list which one is included at all.
"""

from __future__ import annotations

from typing import Dict, Mapping, Tuple

import numpy as np

__all__ = ["NUM_DETS", "are_detections", "are_proposals", "matched", "matched_proposals"]

# Output names of an exported detector.
NUM_DETS, BOXES, SCORES, CLASSES = "num_dets", "boxes", "scores", "classes"
_NAMES = {NUM_DETS, BOXES, SCORES, CLASSES}
# Minimum overlap (IoU) for boxes of two models to be the same object.
_SAME = 0.5
_SLACK = 1e-3
ROIS = "rois"
# For proposals: corners may differ by _NEAR of the image size. A share of _FEW proposals (_MANY if the tolerance is
# above _COARSE), and in any case _LEAST of them, may have no counterpart, because rounding decides which of many boxes
# with nearly equal scores suppress others.
_NEAR, _FEW, _MANY, _COARSE, _LEAST = 0.003, 0.02, 0.2, 1e-3, 2


def are_detections(outputs: Mapping[str, np.ndarray]) -> bool:
    """Return whether the outputs are num_dets (N, 1), boxes (N, K, 4), scores (N, K) and classes (N, K)."""
    if set(outputs) != _NAMES or outputs[SCORES].ndim != 2:
        return False
    count, rows = outputs[SCORES].shape
    shapes = tuple(outputs[name].shape for name in (NUM_DETS, BOXES, CLASSES))
    return shapes == ((count, 1), (count, rows, 4), (count, rows))


def matched(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], slack: float = _SLACK
) -> Tuple[Dict[str, np.ndarray], str]:
    """Return the detections `b` in the order of `a`, and a description of unmatched detections, or "".

    Rows of the same class are matched by their boxes, highest score first. An unmatched row counts as a difference
    unless its score is within `slack` of the lowest score of both lists, where rounding decides what is included; such
    rows are taken from `a`, as are the meaningless rows after num_dets. If K differs, `b` is returned unchanged.
    """
    if a[SCORES].shape != b[SCORES].shape:
        return dict(b), ""
    found = {name: np.array(a[name]) for name in (NUM_DETS, BOXES, SCORES, CLASSES)}
    for image in range(len(a[SCORES])):
        first, second = _rows(a, image), _rows(b, image)
        pairs, alone = _pairs(first, second)
        for row, twin in pairs:
            found[BOXES][image, row] = b[BOXES][image, twin]
            found[SCORES][image, row] = b[SCORES][image, twin]
        lowest = min([float(scores.min()) for _, scores, _ in (first, second) if len(scores)], default=0.0)
        due = [score for score in alone if score > lowest + slack]
        if due:
            text = f"{len(due)} of {max(len(first[1]), len(second[1]))} detections of input {image} have no counterpart"
            return dict(b), f"{text}, the best with a score of {max(due):.3f}"
    return found, ""


def are_proposals(outputs: Mapping[str, np.ndarray]) -> bool:
    """Return whether the outputs are rois (N, R, 4), boxes (N, R, classes, 4) and scores (N, R, classes)."""
    if set(outputs) != {ROIS, BOXES, SCORES} or outputs[SCORES].ndim != 3:
        return False
    shape = outputs[SCORES].shape
    return outputs[ROIS].shape == (*shape[:2], 4) and outputs[BOXES].shape == (*shape, 4)


def matched_proposals(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], tolerance: float
) -> Tuple[Dict[str, np.ndarray], str]:
    """Return the proposals `b` in the order of `a`, and a message if too many have no counterpart, or "".

    Proposals without a counterpart are taken from `a`, as are those without scores, which suppression removed.
    """
    if a[SCORES].shape != b[SCORES].shape:
        return dict(b), ""
    found = {name: np.array(a[name]) for name in (ROIS, BOXES, SCORES)}
    alone = total = 0
    for image in range(len(a[SCORES])):
        first, second = (np.flatnonzero(each[SCORES][image].any(axis=1)) for each in (a, b))
        gaps = np.abs(a[ROIS][image][first][:, None] - b[ROIS][image][second][None]).max(axis=2, initial=0)
        reach = _NEAR * float(np.abs(a[ROIS][image]).max(initial=0))
        pairs = 0
        for place, row in enumerate(first):
            twin = int(np.argmin(gaps[place])) if len(second) else -1
            if twin >= 0 and gaps[place, twin] <= reach:
                gaps[:, twin] = np.inf
                pairs += 1
                for name, array in found.items():
                    array[image, row] = b[name][image, second[twin]]
        alone += max(len(first), len(second)) - pairs
        total += max(len(first), len(second))
    allowed = max(_LEAST, (_MANY if tolerance > _COARSE else _FEW) * total)
    return found, "" if alone <= allowed else f"{alone} of {total} proposals have no counterpart"


_Rows = Tuple[np.ndarray, np.ndarray, np.ndarray]


def _rows(outputs: Mapping[str, np.ndarray], image: int) -> _Rows:
    count = min(max(int(outputs[NUM_DETS][image, 0]), 0), outputs[SCORES].shape[1])
    return outputs[BOXES][image, :count], outputs[SCORES][image, :count], outputs[CLASSES][image, :count]


def _pairs(first: _Rows, second: _Rows) -> Tuple[list, list]:
    """Return the matched pairs of rows, and the scores of the unmatched rows of either list."""
    overlaps = _overlaps(first[0].astype(np.float64), second[0].astype(np.float64))
    overlaps[first[2][:, None] != second[2][None, :]] = -1
    free = np.ones(len(second[1]), bool)
    pairs, alone = [], []
    for row in np.argsort(-first[1], kind="stable"):
        near = np.where(free, overlaps[row], -1) if len(free) else np.empty(0)
        # Among equally close boxes, prefer the one with the closest score.
        twin = int(np.argmax(near - 1e-3 * np.abs(second[1] - first[1][row]))) if len(near) else -1
        if twin >= 0 and near[twin] >= _SAME:
            free[twin] = False
            pairs.append((int(row), twin))
        else:
            alone.append(float(first[1][row]))
    return pairs, [*alone, *second[1][free].astype(float).tolist()]


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the intersection over union (n, m) of all pairs; 1 for boxes equal to within a thousandth of a pixel."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(each[:, 2:] - each[:, :2], 0, None), axis=1) for each in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - inside
    same = np.abs(a[:, None] - b[None, :]).max(axis=2, initial=0) < 1e-3
    return np.where(same, 1.0, inside / np.maximum(union, 1e-9))
