"""ONNX: written through torch.export, run with onnxruntime."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from yolorep.errors import ExportError, UserError, first_line
from yolorep.formats.base import INPUT, OUTPUTS, Backend, Deployed, FileBackend, Format
from yolorep.formats.metadata import Metadata
from yolorep.ops.decode import Decoded

if TYPE_CHECKING:
    import onnx


class Onnx(Format):
    """ONNX through ``torch.export``, optimized by onnxscript: one file, weights inside."""

    suffix = ".onnx"
    requires = ("onnx", "onnxscript", "onnxruntime")
    settings = ("opset",)

    def write(
        self, network: Deployed, path: Path, *, example: Tensor, metadata: Metadata, opset: int = 18, **settings: Any
    ) -> None:
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
                opset_version=opset,
                dynamic_shapes=(_dynamic_shape(metadata.stride),) if dynamic else None,
                verbose=False,
            )
        if program is None:
            raise ExportError("torch.onnx.export returned no model")
        model = program.model_proto
        written = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if written != opset:
            raise ExportError(f"--opset {opset}: torch can only write this model as opset {written}; pass that")
        if dynamic:
            _name_candidates(model)
        onnx.helper.set_model_props(model, metadata.to_strings())
        onnx.checker.check_model(model)
        onnx.save(model, str(path))

    def open(self, path: Path, *, device: torch.device) -> Backend:
        return OnnxBackend(path, device=device)


class OnnxBackend(FileBackend):
    """An ONNX file written by ``yolorep export``.

    It uses as many threads as PyTorch does (``torch.get_num_threads()``).

    Raises:
        UserError: if onnxruntime is missing or has no such device, or the file is no such file.
    """

    def __init__(self, path: Path, *, device: torch.device | None = None) -> None:
        try:
            onnxruntime = import_onnxruntime()
        except ImportError as error:
            raise UserError(
                f"{path}: running ONNX files needs onnxruntime: pip install 'yolorep[{Onnx.extra}]'"
            ) from error
        provider = _provider(onnxruntime.get_available_providers(), device or torch.device("cpu"))
        if not path.is_file():
            raise UserError(f"{path}: expected an ONNX file, found none")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3  # errors only: warnings are about the graph, which a user cannot change
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=[provider])
            strings = self._session.get_modelmeta().custom_metadata_map  # decoded here, which may fail too
            shapes = {entry.name: entry.shape for entry in self._session.get_inputs()}
            results = {entry.name: entry.shape for entry in self._session.get_outputs()}
        except _errors() as error:
            raise UserError(f"{path}: expected an ONNX file, onnxruntime says: {first_line(error)[:500]}") from error
        super().__init__(path, Metadata.from_strings(strings, path=path))
        inputs, outputs = list(shapes), list(results)
        if inputs != [INPUT] or outputs != list(OUTPUTS):
            raise UserError(
                f"{path}: expected input {INPUT!r} and outputs {', '.join(map(repr, OUTPUTS))}, "
                f"found {inputs} and {outputs}: export it again"
            )
        self._check_shapes(shapes[INPUT], results[OUTPUTS[1]])

    def _check_shapes(self, images: list[int | str | None], scores: list[int | str | None]) -> None:
        """Makes sure that the graph is the one that the metadata are of; what it leaves open is checked as it runs."""
        height, width = self.image_size or (None, None)
        promised = {"images": (self.batch_size, 3, height, width), "scores": (self.batch_size, None, len(self.names))}
        for name, shape in (("images", images), ("scores", scores)):
            wanted = promised[name]
            fits = len(shape) == len(wanted) and all(
                side in (None, found) or not isinstance(found, int) for found, side in zip(shape, wanted, strict=True)
            )
            if shape and not fits:  # a graph need not say its shapes
                raise UserError(
                    f"{self.path}: expected {name} of shape {_open(wanted)} as its metadata says, "
                    f"found {_open(shape)}: export it again"
                )

    def _run(self, images: Tensor) -> Decoded:
        inputs = images.numpy().astype(np.float32) / np.float32(255)
        try:
            boxes, scores = self._session.run(list(OUTPUTS), {INPUT: inputs})
        except _errors() as error:
            raise UserError(f"{self.path}: onnxruntime could not run it: {first_line(error)}") from error
        return self._checked(torch.from_numpy(boxes), torch.from_numpy(scores), batch=len(images))


def _open(shape: Sequence[int | str | None]) -> str:
    return f"({', '.join(str(side) if isinstance(side, int) else 'any' for side in shape)})"


def import_onnxruntime() -> ModuleType:
    """The package, imported here only: told not to call home, it asks no DNS and marks no home folder.

    Raises:
        ImportError: if it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read while it is imported; a later call is too late
    return importlib.import_module("onnxruntime")


def _dynamic_shape(stride: int) -> dict[int, Any]:
    """Any batch size, height and width, the latter as multiples of the stride: only then do all features fit."""
    batch, height, width = (torch.export.Dim(name, min=1) for name in ("batch", "height", "width"))
    return {0: batch, 2: stride * height, 3: stride * width}


def _name_candidates(model: onnx.ModelProto) -> None:
    """Gives the number of candidates a name instead of torch's formula over made-up symbols."""
    del model.graph.value_info[:]  # inferred shapes of intermediate values, written with the same symbols
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_param = "candidates"


def _errors() -> tuple[type[Exception], ...]:
    """Onnxruntime's errors, which share no base class, and what its Python side raises of its own."""
    state = import_onnxruntime().capi.onnxruntime_pybind11_state
    own = (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )
    return *own, RuntimeError, ValueError


def _provider(available: list[str], device: torch.device) -> str | tuple[str, dict[str, int]]:
    if device.type == "cpu":
        return "CPUExecutionProvider"
    if device.type == "cuda" and "CUDAExecutionProvider" in available:
        return "CUDAExecutionProvider", {"device_id": device.index or 0}
    raise UserError(
        f"--device {device}: this onnxruntime offers {', '.join(available)} only: use --device cpu, "
        "or install onnxruntime-gpu for CUDA"
    )
