from __future__ import annotations

import numpy as np
import pytest
import torch

from yolorep.ops.decode import Decoded
from yolorep.ops.letterbox import LetterBox
from yolorep.ops.nms import nms
from yolorep.ops.prepare import letterboxed, to_tensor, undo_letterboxes, write_rgb

RNG = np.random.default_rng(0)


def random_image(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_rgb_planes() -> None:
    image = random_image(7, 5)
    out = np.empty((3, 7, 5), np.uint8)
    write_rgb(image, out)
    np.testing.assert_array_equal(out, image[..., ::-1].transpose(2, 0, 1))
    assert torch.equal(to_tensor([image, image])[1], torch.from_numpy(out))


def test_images_that_are_views_of_others() -> None:
    image = random_image(14, 10)
    np.testing.assert_array_equal(to_tensor([image[::2, ::2]])[0].numpy(), image[::2, ::2, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(30, 40), (40, 30), (64, 64), (5, 90)])
def test_a_box_found_in_the_network_input_lies_where_it_was_drawn(size: tuple[int, int]) -> None:
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = width // 4, height // 4, width // 2 + 1, height // 2 + 1
    image[y1:y2, x1:x2] = 255
    box = LetterBox.plan(size, (256, 256))
    batch = letterboxed([image], [box])
    assert batch.shape == (1, 3, 256, 256)
    ys, xs = (batch[0].amin(0) > 180).nonzero(as_tuple=True)
    seen = torch.tensor([[[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]], dtype=torch.float32)
    decoded = Decoded(seen, torch.tensor([[[0.9, 0.1]]]))
    kept = nms(decoded, confidence=0.5, iou=0.5, max_detections=10)
    (found,) = undo_letterboxes(kept, [box], names=("white", "black"))
    assert found.class_id.tolist() == [0] and found[0].class_name == "white" and found.image_size == size
    np.testing.assert_allclose(found.xyxy[0], (x1, y1, x2, y2), atol=1.5 * max(size) / 256)
