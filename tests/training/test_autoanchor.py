"""Anchor fit, evolution, and what ends up in the head."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from yolorep.losses.anchor import AnchorRecipe
from yolorep.training.autoanchor import anchor_fit, evolve_anchors, fit_anchors, object_sizes

COCO = np.array([[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]], float).reshape(
    9, 2
)


def head(*, strides: tuple[int, ...] = (8, 16, 32)) -> SimpleNamespace:
    order = np.argsort(np.argsort(strides))
    anchors = COCO.reshape(3, 3, 2)[order] / np.array(strides)[:, None, None]
    return SimpleNamespace(strides=strides, anchors=torch.tensor(anchors, dtype=torch.float32))


def tiny_objects(n: int = 300) -> np.ndarray:
    sizes = np.random.default_rng(0).lognormal(1.2, 0.5, (n, 2))
    sizes[:, 1] += 20
    return sizes


def test_fit_by_hand() -> None:
    fit = anchor_fit(np.array([[10.0, 10.0], [40.0, 40.0]]), np.array([[10.0, 20.0], [200.0, 10.0], [20.0, 20.0]]))
    assert fit.recall == pytest.approx(2 / 3)
    assert fit.per_object == pytest.approx(3 / 3)  # 10x20: only the first (40/10 is not below 4); 20x20: both
    assert fit.fitness == pytest.approx((0.5 + 0 + 0.5) / 3)


def test_object_sizes() -> None:
    sizes = object_sizes(np.array([[0.5, 0.5], [1.0, 0.1]]), np.array([[480, 640], [1000, 500]]), image_size=320)
    assert sizes == pytest.approx(np.array([[160, 120], [160, 32]]))


def test_evolution_improves_recall_and_repeats() -> None:
    sizes = tiny_objects()
    before = anchor_fit(COCO, sizes)
    anchors = evolve_anchors(sizes, 9, generations=100, rng=np.random.default_rng(0))
    after = anchor_fit(anchors, sizes)
    assert before.recall < 0.9 < 0.98 < after.recall
    assert (np.diff(anchors.prod(1)) >= 0).all()
    assert np.array_equal(anchors, evolve_anchors(sizes, 9, generations=100, rng=np.random.default_rng(0)))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_objects_than_anchors(n: int) -> None:
    anchors = evolve_anchors(tiny_objects(n), 9, generations=20, rng=np.random.default_rng(0))
    assert anchors.shape == (9, 2)
    assert np.isfinite(anchors).all()
    assert (anchors > 0).all()


@pytest.mark.parametrize("strides", [(8, 16, 32), (32, 16, 8)])
def test_new_anchors_follow_the_strides(strides: tuple[int, ...]) -> None:
    detect = head(strides=strides)
    fit_anchors(detect, tiny_objects(), hyp=AnchorRecipe(), seed=0)
    areas = (detect.anchors * torch.tensor(strides)[:, None, None]).prod(-1).mean(1)
    assert areas.argsort().tolist() == np.argsort(strides).tolist()


def test_good_anchors_stay_unless_placeholders() -> None:
    detect = head()
    before = detect.anchors.clone()
    sizes = np.repeat(COCO, 5, axis=0)
    fit_anchors(detect, sizes, hyp=AnchorRecipe(), seed=0)
    assert torch.equal(detect.anchors, before)
    fit_anchors(detect, sizes[:30], hyp=AnchorRecipe(), seed=0, placeholder=True)
    assert not torch.equal(detect.anchors, before)


def test_no_objects() -> None:
    fit_anchors(head(), np.zeros((0, 2)), hyp=AnchorRecipe(), seed=0)
