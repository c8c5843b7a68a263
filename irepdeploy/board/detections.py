"""Put the rows of two sets of detections or proposals into one order, so that they compare like any other outputs.

Detectors give their boxes by falling score. Of two that score nearly the same, rounding decides which comes first, and
at the end of the list which one is in it at all.
"""

from __future__ import annotations

from typing import Dict, Mapping, Tuple

import numpy as np

__all__ = ["NUM_DETS", "are_detections", "are_proposals", "matched", "matched_proposals"]

# Outputs of an exported detector.
NUM_DETS, BOXES, SCORES, CLASSES = "num_dets", "boxes", "scores", "classes"
_NAMES = {NUM_DETS, BOXES, SCORES, CLASSES}
# Boxes of one object in two models overlap at least so much.
_SAME = 0.5
_SLACK = 1e-3
ROIS = "rois"
# Of proposals: how far the corners of one may differ, as a share of the image, and which share may have no counterpart,
# since rounding decides which of many boxes of nearly equal score suppress others, the more the coarser it is.
_NEAR, _FEW, _MANY, _COARSE, _LEAST = 0.003, 0.02, 0.2, 1e-3, 2


def are_detections(outputs: Mapping[str, np.ndarray]) -> bool:
    """Return whether outputs are num_dets (N, 1), boxes (N, K, 4), scores (N, K) and classes (N, K)."""
    if set(outputs) != _NAMES or outputs[SCORES].ndim != 2:
        return False
    count, rows = outputs[SCORES].shape
    shapes = tuple(outputs[name].shape for name in (NUM_DETS, BOXES, CLASSES))
    return shapes == ((count, 1), (count, rows, 4), (count, rows))


def matched(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], slack: float = _SLACK
) -> Tuple[Dict[str, np.ndarray], str]:
    """Return the detections `b` in the order of `a`, and what has no counterpart, or "".

    Rows of one class are matched by their boxes, the best first. A row without a counterpart is a difference, unless it
    scores within `slack` of the lowest score of both lists, where rounding decides what they hold: it is taken from `a`
    then, and so are rows behind num_dets, which mean nothing. Lists of other lengths are returned as they are.
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
    """Return whether outputs are rois (N, R, 4), boxes (N, R, classes, 4) and scores (N, R, classes)."""
    if set(outputs) != {ROIS, BOXES, SCORES} or outputs[SCORES].ndim != 3:
        return False
    shape = outputs[SCORES].shape
    return outputs[ROIS].shape == (*shape[:2], 4) and outputs[BOXES].shape == (*shape, 4)


def matched_proposals(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], tolerance: float
) -> Tuple[Dict[str, np.ndarray], str]:
    """Return the proposals `b` in the order of `a`, and how many have no counterpart if they are too many, or "".

    The few without one are taken from `a`, and so are those that have no scores: suppression removed them.
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
    """Return pairs of rows, and the scores of rows of either without a counterpart."""
    overlaps = _overlaps(first[0].astype(np.float64), second[0].astype(np.float64))
    overlaps[first[2][:, None] != second[2][None, :]] = -1
    free = np.ones(len(second[1]), bool)
    pairs, alone = [], []
    for row in np.argsort(-first[1], kind="stable"):
        near = np.where(free, overlaps[row], -1) if len(free) else np.empty(0)
        # Of several as near, the one with the nearest score.
        twin = int(np.argmax(near - 1e-3 * np.abs(second[1] - first[1][row]))) if len(near) else -1
        if twin >= 0 and near[twin] >= _SAME:
            free[twin] = False
            pairs.append((int(row), twin))
        else:
            alone.append(float(first[1][row]))
    return pairs, [*alone, *second[1][free].astype(float).tolist()]


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return intersections over unions (n, m); 1 for boxes that are the same to a thousandth of a pixel."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(each[:, 2:] - each[:, :2], 0, None), axis=1) for each in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - inside
    same = np.abs(a[:, None] - b[None, :]).max(axis=2, initial=0) < 1e-3
    return np.where(same, 1.0, inside / np.maximum(union, 1e-9))
