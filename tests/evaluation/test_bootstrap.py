"""AP of reweighted images is pycocotools' AP of copied images."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.evaluation.random_scene import CLASSES, scene, score
from yolorep.evaluation.bootstrap import average_precision, bootstrap
from yolorep.evaluation.metrics import CocoResult


def expected_ap(result: CocoResult) -> NDArray[np.float64]:
    """pycocotools' AP of every class and IoU threshold, NaN where it is undefined."""
    values = result.precision[..., 0, 2].mean(axis=1).T
    return np.where(values < 0, np.nan, values)


def reweighted(result: CocoResult, weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """(classes, draws, IoU thresholds)"""
    return np.stack([average_precision(pairing, weights) for pairing in result.pairings])


@pytest.mark.parametrize("seed", range(5))
def test_every_image_once_is_pycocotools_ap(seed: int) -> None:
    result = score(scene(seed, images=30))
    found = reweighted(result, np.ones((1, 30), np.int64))[:, 0]
    np.testing.assert_allclose(found, expected_ap(result), atol=1e-9, rtol=0)
    assert np.isnan(found[CLASSES - 1]).all() and 0.1 < np.nanmean(found) < 0.9
    assert np.nanmean(found) == pytest.approx(result.metrics["AP"], abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_copies(seed: int) -> None:
    """By brute force: a data set that holds every image as often as it was drawn."""
    images = scene(seed, images=12)
    weights = np.random.default_rng(seed).multinomial(12, np.full(12, 1 / 12), size=12)
    weights[0] = np.eye(12, dtype=np.int64)[3] * 12  # one image only
    found = reweighted(score(images), weights)
    for draw, copies in enumerate(weights):
        expected = expected_ap(score(images, copies.tolist()))
        np.testing.assert_allclose(found[:, draw], expected, atol=1e-9, rtol=0, err_msg=str(copies))


def test_nothing_found_and_nothing_there() -> None:
    empty = [(annotations, found[:0]) for annotations, found in scene(0, images=5)]
    np.testing.assert_array_equal(reweighted(score(empty), np.ones((2, 5), np.int64))[: CLASSES - 1], 0)
    bare = [([], found) for _, found in scene(0, images=5)]
    assert np.isnan(reweighted(score(bare), np.ones((2, 5), np.int64))).all()


def test_draws_are_the_same_for_every_model_and_seeded() -> None:
    first, second = (score(scene(1, images=20, skill=skill)).pairings for skill in (0.5, 0.9))
    found = bootstrap([first, second, first], resamples=120, seed=3)
    assert found.shape == (3, CLASSES, 120, 10)
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(bootstrap([first], resamples=120, seed=3)[0], found[0])
    assert not np.array_equal(bootstrap([first], resamples=120, seed=4)[0], found[0], equal_nan=True)
    ap = np.nanmean(found, axis=(1, 3))
    assert (ap[1] > ap[0]).mean() > 0.9  # it found almost twice as many objects


def test_the_spread_is_that_of_new_images() -> None:
    """Intervals mean something: AP over data sets drawn anew spreads as the draws of one data set say."""
    fresh = [score(scene(seed, images=40)).metrics["AP"] for seed in range(100, 140)]
    draws = [
        np.nanmean(bootstrap([score(scene(seed, images=40)).pairings], resamples=200, seed=0), axis=(0, 1, 3))
        for seed in range(5)
    ]
    assert np.mean([values.std() for values in draws]) == pytest.approx(np.std(fresh), rel=0.35)
