"""Whether anchors fit a data set, and better ones: k-means on the object sizes, then a small evolution (YOLOv5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from yolorep.console import say

if TYPE_CHECKING:
    from yolorep.losses.anchor import AnchorRecipe
    from yolorep.models.heads.anchor import Detect

Sizes = NDArray[np.float64]

#: Share of objects some anchor must match for the anchors to be kept.
GOOD_RECALL = 0.98
#: Objects the evolution looks at; more do not change the result, only the time.
MAX_OBJECTS = 20_000


@dataclass(frozen=True)
class AnchorFit:
    """How anchors fit objects.

    Attributes:
        recall: Best possible recall: share of objects that at least one anchor matches.
        per_object: Mean number of anchors matching an object.
        fitness: Mean over objects of the best side ratio (at most 1), 0 where nothing matches.
    """

    recall: float
    per_object: float
    fitness: float


def anchor_fit(anchors: Sizes, sizes: Sizes, *, threshold: float = 4.0) -> AnchorFit:
    """Rate anchors.

    Args:
        anchors: (k, 2) width and height.
        sizes: Objects, (n, 2) in the same unit, n > 0.
        threshold: Largest ratio of object and anchor sides, exclusive.
    """
    ratio = sizes[:, None] / anchors[None]
    match = np.minimum(ratio, 1 / ratio).min(2)  # (n, k): how alike, 1 is equal
    best = match.max(1)
    return AnchorFit(
        recall=float((best > 1 / threshold).mean()),
        per_object=float((match > 1 / threshold).sum(1).mean()),
        fitness=float((best * (best > 1 / threshold)).mean()),
    )


def object_sizes(boxes: NDArray[np.floating], image_sizes: NDArray[np.number], *, image_size: int) -> Sizes:
    """Sizes objects have in the network input.

    Args:
        boxes: (n, 2) width and height, normalized to their image.
        image_sizes: (n, 2) height and width of the image each object is in, pixels.
        image_size: Long side of the network input, pixels.

    Returns:
        (n, 2) width and height in pixels.
    """
    images = image_sizes[:, ::-1].astype(np.float64)
    sizes: Sizes = boxes * images * (image_size / images.max(1, keepdims=True))
    return sizes


def evolve_anchors(
    sizes: Sizes, count: int, *, threshold: float = 4.0, generations: int = 1000, rng: np.random.Generator
) -> Sizes:
    """Find anchors for objects.

    Args:
        sizes: Objects, (n, 2) width and height in pixels, n > 0.
        count: Number of anchors.
        threshold: Largest ratio of object and anchor sides, exclusive.
        generations: Mutations tried.
        rng: Source of randomness.

    Returns:
        (count, 2) sorted by area.
    """
    if len(sizes) > MAX_OBJECTS:
        sizes = rng.choice(sizes, MAX_OBJECTS, replace=False)
    anchors = _k_means(sizes[(sizes >= 2).any(1)] if (sizes >= 2).any() else sizes, count, rng)
    fitness = anchor_fit(anchors, sizes, threshold=threshold).fitness
    for _ in range(generations):
        factor = np.ones_like(anchors)
        while (factor == 1).all():
            mutate = rng.random(anchors.shape) < 0.9
            factor = (mutate * rng.random() * rng.normal(0, 0.1, anchors.shape) + 1).clip(0.3, 3)
        child = (anchors * factor).clip(min=2)
        child_fitness = anchor_fit(child, sizes, threshold=threshold).fitness
        if child_fitness > fitness:
            anchors, fitness = child, child_fitness
    return anchors[np.argsort(anchors.prod(1), kind="stable")]


def _k_means(points: Sizes, count: int, rng: np.random.Generator) -> Sizes:
    """Centres of ``count`` clusters of whitened points, (count, 2)."""
    import cv2

    if len(points) < 2 * count:  # too few to cluster: variations of what there is
        points = np.repeat(points, -(-2 * count // len(points)), axis=0)
        points = points * rng.uniform(0.7, 1.4, points.shape)
    spread = points.std(0).clip(min=1e-6)
    cv2.setRNGSeed(int(rng.integers(2**31)))
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 1e-5)
    labels = np.zeros(len(points), np.int32)
    whitened = (points / spread).astype(np.float32)
    _, _, centers = cv2.kmeans(whitened, count, labels, criteria, 5, cv2.KMEANS_PP_CENTERS)
    anchors: Sizes = np.asarray(centers, np.float64) * spread
    return anchors


def fit_anchors(head: Detect, sizes: Sizes, *, hyp: AnchorRecipe, seed: int, placeholder: bool = False) -> None:
    """Replace the head's anchors if they do not fit the data and better ones are found.

    Anchors are written to the head's buffer, in stride units, small ones to the level of the smallest stride.

    Args:
        head: The head.
        sizes: The data set's objects, (n, 2) width and height in pixels of the network input.
        hyp: The recipe, whose ``anchor_t`` is the largest ratio of object and anchor sides, exclusive.
        seed: Seed of jitter, clustering and evolution.
        placeholder: The anchors mean nothing yet: replace them in any case.
    """
    if len(sizes) == 0:
        return
    rng = np.random.default_rng(seed)
    strides = np.asarray(head.strides, dtype=np.float64)
    current = head.anchors.detach().cpu().double().numpy() * strides[:, None, None]  # (nl, na, 2) pixels
    jittered = sizes * rng.uniform(0.9, 1.1, (len(sizes), 1))
    before = anchor_fit(current.reshape(-1, 2), jittered, threshold=hyp.anchor_t)
    fits = f"{before.recall:.3f} best possible recall, {before.per_object:.2f} anchors an object"
    if before.recall > GOOD_RECALL and not placeholder:
        say(f"anchors fit the data: {fits}")
        return
    anchors = evolve_anchors(sizes, current.shape[0] * current.shape[1], threshold=hyp.anchor_t, rng=rng)
    after = anchor_fit(anchors, jittered, threshold=hyp.anchor_t)
    if after.recall <= before.recall and not placeholder:
        say(f"anchors kept, none better found: {fits}")
        return
    levels = np.empty_like(current)
    levels[np.argsort(strides, kind="stable")] = anchors.reshape(current.shape)  # small anchors to small strides
    with torch.no_grad():
        head.anchors.copy_(torch.from_numpy(levels / strides[:, None, None]))
    shown = " ".join(f"{w:.0f},{h:.0f}" for w, h in anchors)
    say(f"new anchors {shown}: best possible recall {before.recall:.3f} -> {after.recall:.3f}")
