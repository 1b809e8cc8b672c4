"""Export to ONNX."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from yolorep.errors import ExportError
from yolorep.export.base import INPUT, OUTPUTS, Deployed, Exporter
from yolorep.runtime.base import Backend
from yolorep.runtime.metadata import Metadata
from yolorep.runtime.onnx import OnnxBackend

if TYPE_CHECKING:
    import onnx


class OnnxExporter(Exporter):
    """ONNX through ``torch.export``, optimized by onnxscript: one file, weights inside.

    Args:
        opset: version of the ONNX operator set.
    """

    suffix = ".onnx"
    requires = ("onnx", "onnxscript", "onnxruntime")

    def __init__(self, *, opset: int) -> None:
        self.opset = opset

    def write(self, network: Deployed, path: Path, *, example: Tensor, metadata: Metadata) -> None:
        import onnx

        dynamic = metadata.image_size is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own internals
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=self.opset,
                dynamic_shapes=(_dynamic_shape(metadata.stride),) if dynamic else None,
                verbose=False,
            )
        if program is None:
            raise ExportError("torch.onnx.export returned no model")
        model = program.model_proto
        written = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if written != self.opset:
            raise ExportError(f"--opset {self.opset}: torch can only write this model as opset {written}; pass that")
        if dynamic:
            _name_candidates(model)
        onnx.helper.set_model_props(model, metadata.to_strings())
        onnx.checker.check_model(model)
        onnx.save(model, str(path))

    def open(self, path: Path, *, device: torch.device) -> Backend:
        return OnnxBackend(path, device=device)


def _dynamic_shape(stride: int) -> dict[int, Any]:
    """Any batch size, height and width, the latter as multiples of the stride: only then do all features fit."""
    batch, height, width = (torch.export.Dim(name, min=1) for name in ("batch", "height", "width"))
    return {0: batch, 2: stride * height, 3: stride * width}


def _name_candidates(model: onnx.ModelProto) -> None:
    """Gives the number of candidates a name instead of torch's formula over made-up symbols."""
    del model.graph.value_info[:]  # inferred shapes of intermediate values, written with the same symbols
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = "candidates"
