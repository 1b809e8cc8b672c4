import pytest
import torch

from yolorep.errors import UserError
from yolorep.formats.pytorch import TorchBackend
from yolorep.models.detector import build_model

CONFIG = {
    "nc": 2,
    "anchors": [[10, 13, 16, 30]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[-1], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model(CONFIG, names=("a", "b")).eval()


def test_runs_images_as_the_model_does(model):
    backend = TorchBackend(model)
    assert (backend.names, backend.stride, backend.image_size, backend.batch_size) == (("a", "b"), 4, None, None)
    images = torch.randint(0, 256, (3, 3, 20, 32), dtype=torch.uint8)
    decoded = backend(images)
    with torch.no_grad():
        expected = model.decode(model(images.float() / 255))
    assert decoded.boxes.dtype == decoded.scores.dtype == torch.float32
    assert torch.allclose(decoded.boxes, expected.boxes, atol=1e-4)
    assert torch.allclose(decoded.scores, expected.scores, atol=1e-6)


def test_leaves_the_model_alone(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    strides = [parameter.stride() for parameter in model.parameters()]
    TorchBackend(model)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [parameter.stride() for parameter in model.parameters()] == strides


def test_float64_models_give_float32(model):
    assert TorchBackend(model.double())(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).boxes.dtype == torch.float32


def test_refuses_training_mode_and_half_on_a_cpu(model):
    with pytest.raises(UserError, match="--half: float16 inference needs a CUDA device"):
        TorchBackend(model, half=True)
    with pytest.raises(ValueError, match="eval mode"):
        TorchBackend(model.train())
