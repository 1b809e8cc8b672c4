import pytest
import torch

from yolorep.errors import UserError
from yolorep.formats.base import Backend, FileBackend
from yolorep.formats.metadata import Metadata
from yolorep.ops.decode import Decoded


class MeanBackend(Backend):
    """Scores each image by its mean, so that mixed-up images show."""

    def __init__(self, *, image_size=None, batch_size=None):
        self.names, self.stride, self.image_size, self.batch_size = ("thing",), 32, image_size, batch_size
        self.batches = []

    def _run(self, images):
        self.batches.append(len(images))
        scores = images.float().mean(dim=(1, 2, 3)).view(-1, 1, 1) / 255
        return Decoded(scores.expand(-1, 1, 4), scores)


def images(count, height=32, width=64):
    return torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, height, width).contiguous()


@pytest.mark.parametrize(
    ("batch_size", "count", "batches"),
    [(None, 5, [5]), (5, 5, [5]), (2, 5, [2, 2, 2]), (4, 1, [4]), (1, 3, [1, 1, 1]), (2, 4, [2, 2])],
)
def test_any_number_of_images_runs_in_batches_of_the_files_size(batch_size, count, batches):
    backend = MeanBackend(batch_size=batch_size)
    decoded = backend(images(count))
    assert backend.batches == batches
    assert torch.allclose(decoded.scores[:, 0, 0] * 255, torch.arange(count, dtype=torch.float32))
    assert decoded.boxes.shape == (count, 1, 4)


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(1, 3, 32, 32), images(1)[:, :1], images(1)[:0]],
    ids=["no batch", "float", "gray", "empty"],
)
def test_refuses_what_is_no_batch_of_images(wrong):
    with pytest.raises(ValueError, match="uint8 images"):
        MeanBackend()(wrong)


@pytest.mark.parametrize(
    ("backend", "height", "width", "message"),
    [
        (MeanBackend(), 33, 64, "multiples of the stride 32, found 33x64"),
        (MeanBackend(image_size=(64, 64)), 32, 64, "exported for 64x64 pixels .* found an image of 32x64.*--dynamic"),
    ],
)
def test_refuses_a_wrong_size(backend, height, width, message):
    with pytest.raises(UserError, match=message):
        backend(images(1, height, width))


@pytest.mark.parametrize(
    ("boxes", "scores"), [((2, 7, 4), (2, 7, 3)), ((1, 7, 4), (1, 7, 2)), ((1, 7, 5), (1, 7, 3)), ((7, 4), (7, 3))]
)
def test_outputs_that_do_not_fit_the_metadata_are_refused(boxes, scores, tmp_path):
    right = (1, 7, 4), (1, 7, 3)
    assert given_by_a_file(right, tmp_path)(images(1)).boxes.shape == right[0]
    with pytest.raises(UserError, match=r"expected boxes \(1, .*, 4\) and scores .* export it again"):
        given_by_a_file((boxes, scores), tmp_path)(images(1))


def given_by_a_file(shapes, path):
    """A file of three classes that computes zeros of these shapes."""

    class Zeros(FileBackend):
        def _run(self, images):
            return self._checked(*map(torch.zeros, shapes), batch=len(images))

    names = ("a", "b", "c")
    return Zeros(path, Metadata(names=names, stride=32, strides=(32,), image_size=None, batch_size=None, version="1"))
