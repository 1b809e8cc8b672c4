from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.toy import load, small_disk, write_yaml
from yolorep.data import shapes
from yolorep.data.catalog import load_data_config
from yolorep.data.shapes import OUTLINES, ShapesOptions, render_image, render_shapes
from yolorep.errors import UserError

SMALL = ShapesOptions(train=6, val=3, image_size=96)
YAML = """generate: {train: 6, val: 3, image_size: 96}
train: images/train
val: images/val
names: [circle, square, triangle, star, cross]
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_renders_once_into_the_cache(tmp_path: Path, cache: Path) -> None:
    yaml = write_yaml(tmp_path, YAML)
    assert len(load(yaml)) == 6
    assert len(load(yaml, "val")) == 3
    (folder,) = cache.glob("shapes-*")
    assert sorted(path.name for path in folder.iterdir()) == ["images", "labels"]
    assert list(tmp_path.iterdir()) == [yaml]
    shutil.rmtree(folder / "images" / "val")
    assert len(load(yaml)) == 6
    assert not (folder / "images" / "val").exists()  # nothing was drawn again


def test_is_deterministic_and_depends_on_the_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = contents(render_shapes(SMALL))
    other = render_shapes(SMALL.model_copy(update={"seed": 1}))
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path))
    assert contents(render_shapes(SMALL)) == first
    assert contents(other) != first
    # More images do not change those there were.
    more = contents(render_shapes(SMALL.model_copy(update={"train": 7})))
    assert first.items() <= more.items()


def test_splits_differ() -> None:
    image, _ = render_image(SMALL, "train", 0)
    other, _ = render_image(SMALL, "val", 0)
    assert image.shape != other.shape or (image != other).any()


def test_boxes_are_right_and_sizes_vary_widely() -> None:
    options = ShapesOptions()
    sides, classes, counts, shapes_seen = [], [], [], set()
    for number in range(60):
        image, rows = render_image(options, "train", number)
        assert max(image.shape[:2]) == options.image_size
        shapes_seen.add(image.shape)
        assert (rows[:, 3:] > 0).all()
        assert (rows[:, 1:3] - rows[:, 3:] / 2 >= -1e-9).all()
        assert (rows[:, 1:3] + rows[:, 3:] / 2 <= 1 + 1e-9).all()
        pixels = rows[:, 3:] * image.shape[1::-1]
        sides += np.sqrt(pixels.prod(axis=1)).tolist()
        classes += rows[:, 0].astype(int).tolist()
        counts.append(len(rows))
    assert len(shapes_seen) >= 4
    assert min(counts) >= 1
    assert max(counts) >= 7
    assert (np.bincount(classes, minlength=len(OUTLINES)) > 0.1 * len(classes)).all()
    assert np.percentile(sides, 3) < 18
    assert np.percentile(sides, 97) > 100


def test_the_smallest_may_be_larger() -> None:
    options = ShapesOptions(smallest=0.15, visible=1, image_size=160)
    rows = np.concatenate([render_image(options, "train", number)[1] for number in range(20)])
    # The narrowest outline is a triangle's, 1.5 radii high, squeezed to 0.8 of it.
    assert 1.5 * 0.8 * 0.15 * 160 - 2 < rows[:, 3:].max(axis=1).min() * 160 < 2.1 * 0.15 * 160


@pytest.mark.parametrize("visible", [0.5, 0.85, 1.0])
def test_nothing_is_nearly_hidden(monkeypatch: pytest.MonkeyPatch, visible: float) -> None:
    """Paint over every shape in turn: the part still visible is what the box encloses, and not a sliver."""
    options = ShapesOptions(objects=30, image_size=160, visible=visible)
    drawn: list[int] = []
    painted = shapes._painted
    monkeypatch.setattr(
        shapes,
        "_painted",
        lambda rng, below, mask, inside: drawn.append(int(inside.sum())) or painted(rng, below, mask, inside),
    )
    for number in range(20):
        drawn.clear()
        image, rows = render_image(options, "train", number)
        areas = rows[:, 3:].prod(axis=1) * image.shape[0] * image.shape[1]
        assert len(drawn) == len(rows)
        # The box of the visible part holds at least the visible pixels.
        assert (areas >= visible * np.array(drawn)).all()


def test_shapes_stand_out() -> None:
    """The middle of an unoccluded circle differs from the ring around its box."""
    contrasts = []
    for number in range(40):
        image, rows = render_image(ShapesOptions(objects=2), "train", number)
        for class_id, x, y, w, h in rows:
            if class_id or min(w, h) < 0.05:
                continue
            height, width = image.shape[:2]
            inner = image[int((y - h / 5) * height) : int((y + h / 5) * height) + 1]
            inner = inner[:, int((x - w / 5) * width) : int((x + w / 5) * width) + 1].reshape(-1, 3).mean(axis=0)
            low, high = max(int((y - h * 0.6) * height), 0), int((y + h * 0.6) * height)
            left, right = max(int((x - w * 0.6) * width), 0), int((x + w * 0.6) * width)
            window = image[low:high, left:right].astype(float)
            ring = np.concatenate([window[:2].reshape(-1, 3), window[-2:].reshape(-1, 3)])
            contrasts.append(np.linalg.norm(inner - ring.mean(axis=0)))
    assert len(contrasts) > 5
    assert np.median(contrasts) > 60


def _render(_: int) -> str:
    return str(render_shapes(SMALL))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_two_processes_at_once(cache: Path) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        first, second = pool.map(_render, range(2), chunksize=1)
    assert first == second
    assert [path.name for path in cache.iterdir()] == [Path(first).name]
    assert len(list(Path(first).rglob("*.jpg"))) == 9


def test_nothing_half_drawn_stays(cache: Path) -> None:
    sizes = [len(content) for content in contents(render_shapes(SMALL)).values()]
    shutil.rmtree(render_shapes(SMALL))
    with small_disk(max(sizes) - 1), pytest.raises(UserError, match=r"cannot be written \(File too large\)"):
        render_shapes(SMALL)
    assert not list(cache.iterdir())


def test_unwritable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="YOLOREP_CACHE"):
        render_shapes(SMALL)


def test_a_lost_folder_is_drawn_again() -> None:
    folder = render_shapes(SMALL)
    shutil.rmtree(folder)
    assert render_shapes(SMALL).is_dir()


def test_the_shipped_data_set_needs_no_other_names() -> None:
    assert load_data_config("data/shapes.yaml").names == tuple(OUTLINES)


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_fill_the_unit_circle(name: str) -> None:
    points = OUTLINES[name]()
    radius = np.linalg.norm(points, axis=1).max()
    assert 0.99 <= radius <= 1.1
    assert abs(cv2.contourArea(points.astype(np.float32))) > 0.9
