"""Decoding distances, by hand; the anchor-based decoding is tested with its head."""

from __future__ import annotations

import math

import pytest
import torch

from yolorep.ops.decode import boxes_around, cell_centres, decode_distances, flatten_levels, side_distances


def test_expected_distances_by_hand() -> None:
    level = torch.zeros(1, 4 * 4 + 2, 2, 3)
    # Cell (x 2, y 1). Left: all mass on 3. Top: halves on 1 and 2. Right: uniform, 1.5. Bottom: e : 1 : 1 : 1.
    level[0, 3, 1, 2] = 100.0
    level[0, 4 + 1, 1, 2] = level[0, 4 + 2, 1, 2] = 100.0
    level[0, 12, 1, 2] = 1.0
    level[0, 16:, 1, 2] = torch.tensor([2.0, -1.0])
    decoded = decode_distances([level], [8], 2, 4)
    bottom = (1 + 2 + 3) / (math.e + 3)
    expected = [(2.5 - 3) * 8, (1.5 - 1.5) * 8, (2.5 + 1.5) * 8, (1.5 + bottom) * 8]
    assert decoded.boxes.shape == (1, 6, 4) and decoded.scores.shape == (1, 6, 2)
    assert decoded.boxes[0, 5].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert decoded.boxes[0, 0].tolist() == pytest.approx([-8, -8, 16, 16])
    assert decoded.scores[0, 5].tolist() == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.e)])


def test_direct_distances_by_hand() -> None:
    level = torch.zeros(1, 4 + 1, 1, 2)
    level[0, :4, 0, 1] = torch.tensor([0.0, 20.0, -20.0, 1.0])
    decoded = decode_distances([level], [16], 1, 1)
    softplus = [math.log(2), 20, 0, math.log(1 + math.e)]
    expected = [24 - 16 * softplus[0], 8 - 320, 24, 8 + 16 * softplus[3]]
    assert decoded.boxes[0, 1].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-4)
    assert decoded.scores[0, 1].tolist() == [0.5]


def test_peaks_by_hand() -> None:
    """Two classes on 3 x 4 cells: what is below a neighbour scores nothing, equal neighbours both stay."""
    classes = torch.tensor(
        [
            [[9.0, 1.0, 2.0, 3.0], [1.0, 2.0, 2.0, 3.0], [7.0, 1.0, 1.0, 1.0]],
            [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0]],
        ]
    )
    level = torch.cat((torch.zeros(4, 3, 4), classes))[None]
    plain, found = (decode_distances([level], [8], 2, 1, peaks=peaks) for peaks in (False, True))
    assert torch.equal(found.boxes, plain.boxes)
    kept = found.scores[0].T.view(2, 3, 4) > 0
    assert kept[0].tolist() == [[True, False, False, True], [False, False, False, True], [True, False, False, False]]
    assert kept[1].tolist() == [[True, True, False, False], [True, True, False, True], [True, True, False, False]]
    assert torch.equal(found.scores[found.scores > 0], plain.scores[found.scores > 0])


def test_peaks_across_levels_by_hand() -> None:
    """A coarse cell stands for the four fine ones below it, and reaches one fine cell further; so does the reverse."""
    fine, coarse = torch.zeros(1, 5, 2, 8), torch.zeros(1, 5, 1, 4)
    fine[0, 4] = torch.tensor([[3.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 6.0], [1.0] * 8])
    coarse[0, 4] = torch.tensor([5.0, 0.0, 4.0, 4.5])
    decoded = decode_distances([fine, coarse], [8, 16], 1, 1, peaks=True)
    kept = (decoded.scores[0, :, 0] > 0).nonzero()[:, 0].tolist()
    # Fine column 2 is beside the coarse 5; column 7 is above the coarse 4.5, which is above the 4 beside it.
    assert kept == [7, 16]


def test_a_direct_distance_can_always_learn() -> None:
    sides = torch.tensor([[-10.0, 0.0, 5.0, 50.0]], requires_grad=True)
    side_distances(sides, 1).sum().backward()
    assert (sides.grad > 0).all() and (sides.grad <= 1).all()


@pytest.mark.parametrize("reg_max", [1, 16])
def test_distances_are_never_negative(reg_max: int) -> None:
    torch.manual_seed(0)
    distances = side_distances(10 * torch.randn(50, 4 * reg_max), reg_max)
    assert distances.shape == (50, 4) and (distances >= 0).all()
    assert reg_max == 1 or (distances <= reg_max - 1).all()


def test_cells_of_all_levels_in_one_order() -> None:
    """The order of centres is that of the flattened maps."""
    strides, shapes = (8, 16, 32), [(4, 8), (2, 4), (1, 2)]
    levels = []
    for stride, (height, width) in zip(strides, shapes, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        levels.append(torch.stack(((x + 0.5) * stride, (y + 0.5) * stride, torch.full_like(x, stride)))[None])
    centres, pixels = cell_centres([level.float() for level in levels], strides)
    places, sizes = flatten_levels(levels, (2, 1))
    assert torch.equal(places[0], centres) and torch.equal(sizes[0], pixels)


def test_batches_and_levels_do_not_mix() -> None:
    torch.manual_seed(0)
    levels = [torch.randn(3, 4 * 16 + 2, 4, 6), torch.randn(3, 4 * 16 + 2, 2, 3)]
    whole = decode_distances(levels, (8, 16), 2, 16)
    for image in range(3):
        for index, (stride, cells) in enumerate([(8, slice(0, 24)), (16, slice(24, 30))]):
            alone = decode_distances([levels[index][image : image + 1]], [stride], 2, 16)
            assert torch.allclose(alone.boxes[0], whole.boxes[image, cells])
            assert torch.allclose(alone.scores[0], whole.scores[image, cells])


def test_boxes_around_points() -> None:
    assert boxes_around(torch.tensor([10.0, 20.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [9, 18, 13, 24]
