import numpy as np
import pytest
import torch

from yolorep.errors import UserError
from yolorep.formats.base import Backend
from yolorep.formats.tta import TTA
from yolorep.ops.decode import Decoded
from yolorep.ops.letterbox import BORDER


class BrightBackend(Backend):
    """Finds the bright rectangle of each image."""

    names, stride, image_size, batch_size = ("bright",), 32, None, None

    def __init__(self):
        self.inputs = []

    def _run(self, images):
        self.inputs.append(images)
        boxes = []
        for image in images.numpy():
            y, x = np.nonzero(image[0] > 180)
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
        return Decoded(torch.tensor(boxes, dtype=torch.float32)[:, None], torch.ones(len(images), 1, 1))


@pytest.mark.parametrize(("height", "width"), [(320, 320), (256, 416), (32, 64)])
def test_every_pass_finds_the_box_where_it_is(height, width):
    box = [width // 8, height // 4, width // 2, height - height // 8]
    images = torch.full((2, 3, height, width), BORDER, dtype=torch.uint8)
    images[:, :, box[1] : box[3], box[0] : box[2]] = 250
    backend = BrightBackend()
    decoded = TTA(backend)(images)
    assert decoded.boxes.shape == (2, 3, 4)
    assert decoded.scores.shape == (2, 3, 1)
    assert torch.equal(decoded.boxes[:, 0], torch.tensor([box] * 2, dtype=torch.float32))
    assert (decoded.boxes - torch.tensor(box)).abs().max() <= 1.5  # one pixel of the smallest scale


def test_passes_have_the_documented_sizes_and_a_grey_border():
    backend = BrightBackend()
    images = torch.full((1, 3, 320, 640), 200, dtype=torch.uint8)
    TTA(backend)(images)
    assert [tuple(batch.shape[2:]) for batch in backend.inputs] == [(320, 640), (288, 544), (224, 448)]
    for batch, (height, width) in zip(backend.inputs[1:], [(265, 531), (214, 428)], strict=True):
        assert (batch[..., :height, :width] == 200).all()
        assert (batch[..., height:, :] == BORDER).all()
        assert (batch[..., width:] == BORDER).all()


def test_the_second_pass_is_mirrored():
    backend = BrightBackend()
    images = torch.full((1, 3, 64, 64), 0, dtype=torch.uint8)
    images[..., :16] = 250
    TTA(backend)(images)
    mirrored = backend.inputs[1][0, 0, 10, :53]  # 53 = int(64 * 0.83)
    assert mirrored[-1] == 250
    assert mirrored[0] == 0


def test_refuses_a_file_of_one_size():
    backend = BrightBackend()
    backend.image_size = (320, 320)
    with pytest.raises(UserError, match=r"--augment .* exported for 320x320 only: export it with --dynamic"):
        TTA(backend)


def test_refuses_what_runs_without_nms():
    backend = BrightBackend()
    backend.nms_free = True
    with pytest.raises(UserError, match="--augment: expected a model with NMS.*leave --augment out"):
        TTA(backend)
