"""Files that are not what their names promise."""

import sys

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from yolorep.errors import UserError
from yolorep.formats.metadata import Metadata
from yolorep.formats.onnx import OnnxBackend
from yolorep.formats.torchscript import METADATA_FILE, TorchScriptBackend

METADATA = Metadata(names=("a", "b"), stride=8, strides=(8,), image_size=None, batch_size=None, version="1")


def write_onnx(path, *, outputs=("boxes", "scores"), metadata=METADATA):
    """A file that returns its input twice."""
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"]) for name in outputs]
    nodes = [helper.make_node("Identity", ["images"], [name]) for name in outputs]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [image], results), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    if metadata:
        helper.set_model_props(model, metadata.to_strings())
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("backend", [OnnxBackend, TorchScriptBackend])
@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"PK\x03\x04junk", None])
def test_damaged_and_missing_files(tmp_path, backend, content):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"file: expected an? \w+ file") as caught:
        backend(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file(tmp_path):
    path = write_onnx(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="m.onnx: expected"):
        OnnxBackend(path)


def test_foreign_onnx(tmp_path):
    with pytest.raises(UserError, match="written by 'yolorep export'"):
        OnnxBackend(write_onnx(tmp_path / "m.onnx", metadata=None))
    with pytest.raises(UserError, match=r"outputs 'boxes', 'scores', found \['images'\] and \['output0'\]"):
        OnnxBackend(write_onnx(tmp_path / "m.onnx", outputs=("output0",)))


def test_onnx_outputs_that_do_not_fit(tmp_path):
    with pytest.raises(UserError, match=r"scores of shape \(any, any, 2\) .* found \(any, 3, any, any\)"):
        OnnxBackend(write_onnx(tmp_path / "m.onnx"))


def test_without_onnxruntime_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs onnxruntime: pip install 'yolorep\[export\]'"):
        OnnxBackend(tmp_path / "m.onnx")


def test_a_device_that_onnxruntime_lacks(tmp_path):
    with pytest.raises(UserError, match="--device mps: this onnxruntime offers .* use --device cpu"):
        OnnxBackend(write_onnx(tmp_path / "m.onnx"), device=torch.device("mps"))


class Twice(torch.nn.Module):
    def forward(self, images):
        return images, images


def test_foreign_torchscript(tmp_path):
    path = tmp_path / "m.torchscript"
    module = torch.jit.trace(Twice(), torch.zeros(1, 3, 8, 8))
    torch.jit.save(module, str(path))
    with pytest.raises(UserError, match="written by 'yolorep export'"):
        TorchScriptBackend(path)
    torch.jit.save(module, str(path), _extra_files={METADATA_FILE: "[1]"})
    with pytest.raises(UserError, match="written by 'yolorep export'"):
        TorchScriptBackend(path)
