"""Export to ONNX."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from yolorep.export.base import INPUT, OUTPUTS, Deployed, Exporter, ExportError
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
        any_size = torch.export.Dim.DYNAMIC  # unlike AUTO it raises where the network would fix the size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's own internals
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                opset_version=self.opset,
                dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},) if dynamic else None,
                verbose=False,
            )
        if program is None:
            raise ExportError("torch.onnx.export returned no model")
        model = program.model_proto
        written = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if written != self.opset:
            raise ExportError(f"--opset {self.opset}: torch can only write this model as opset {written}; pass that")
        if dynamic:
            _name_dimensions(model)
        onnx.helper.set_model_props(model, metadata.to_strings())
        onnx.checker.check_model(model)
        onnx.save(model, str(path))

    def open(self, path: Path) -> Backend:
        return OnnxBackend(path)


def _name_dimensions(model: onnx.ModelProto) -> None:
    """Replaces torch's symbols (``s77``, long formulas) by names that people reading the file understand."""
    graph = model.graph
    del graph.value_info[:]  # inferred shapes of intermediate values, written with the old symbols
    for value, names in (
        (graph.input[0], ("batch", None, "height", "width")),
        *((output, ("batch", "candidates", None)) for output in graph.output),
    ):
        for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            if name is not None:
                dimension.dim_param = name
