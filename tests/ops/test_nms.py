"""Non-maximum suppression."""

from __future__ import annotations

import numpy as np
import torch

from yolorep.ops import nms as module
from yolorep.ops.decode import Decoded
from yolorep.ops.nms import nms

BOXES = torch.tensor([[[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]]], dtype=torch.float32)
SCORES = torch.tensor([[[0.9, 0.2], [0.8, 0.7], [0.1, 0.6]]])
SETTINGS = {"confidence": 0.15, "iou": 0.5, "max_detections": 10}


def run(**changes: object) -> list[tuple[int, float]]:
    (found,) = nms(Decoded(BOXES, SCORES), **{**SETTINGS, **changes})  # type: ignore[arg-type]
    return [(int(c), round(float(s), 3)) for c, s in zip(found.class_id, found.confidence, strict=True)]


def test_best_class_of_each_box() -> None:
    assert run() == [(0, 0.9), (1, 0.6)]


def test_several_classes_a_box() -> None:
    assert run(multi_label=True) == [(0, 0.9), (1, 0.7), (1, 0.6)]


def test_without_suppression_the_best_scores_stay() -> None:
    assert run(iou=None) == [(0, 0.9), (0, 0.8), (1, 0.6)]
    assert run(iou=None, multi_label=True) == [(0, 0.9), (0, 0.8), (1, 0.7), (1, 0.6), (1, 0.2)]
    assert run(iou=None, multi_label=True, max_detections=2) == [(0, 0.9), (0, 0.8)]
    assert run(iou=None, classes=[1]) == [(1, 0.6)]
    assert run(iou=None, confidence=0.95) == []


def test_class_agnostic() -> None:
    assert run(multi_label=True, class_agnostic=True) == [(0, 0.9), (1, 0.6)]


def test_classes_stay_apart_outside_of_the_image() -> None:
    boxes = torch.tensor([[[500, 500, 700, 700], [-200, -200, 10, 10]]], dtype=torch.float32)
    (found,) = nms(Decoded(boxes, torch.tensor([[[0.9, 0.0], [0.0, 0.8]]])), **SETTINGS)  # type: ignore[arg-type]
    assert found.class_id.tolist() == [0, 1]


def test_wanted_classes_only() -> None:
    assert run(classes=[1]) == [(1, 0.6)]


def test_limits() -> None:
    assert run(max_detections=1) == [(0, 0.9)]
    assert run(confidence=0.95) == []


def test_candidates_are_limited_by_count(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_CANDIDATES", 2)
    assert run(multi_label=True, iou=1.0) == [(0, 0.9), (0, 0.8)]


def test_images_do_not_mix() -> None:
    first, second = nms(Decoded(BOXES.repeat(2, 1, 1), torch.stack((SCORES[0], 0 * SCORES[0]))), **SETTINGS)  # type: ignore[arg-type]
    assert len(first) == 2 and len(second) == 0
    assert first.xyxy.dtype == np.float32 and second.xyxy.shape == (0, 4)
