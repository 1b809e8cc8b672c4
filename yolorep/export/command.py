"""``yolorep export``: weights in, checked files out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import yolorep
from yolorep.console import say
from yolorep.engine.build import load_model
from yolorep.errors import UserError, suggest
from yolorep.export.base import Deployed, Exporter, ExportError
from yolorep.export.onnx import OnnxExporter
from yolorep.export.samples import sample_batches
from yolorep.export.torchscript import TorchScriptExporter
from yolorep.export.verify import compare
from yolorep.files import atomic_write
from yolorep.models.detector import Detector
from yolorep.nn.reparam import FuseReport, fuse
from yolorep.ops.letterbox import round_up
from yolorep.options import ExportOptions
from yolorep.runtime.metadata import Metadata
from yolorep.runtime.pytorch import TorchBackend

EXPORTERS: dict[str, Callable[[ExportOptions], Exporter]] = {
    "onnx": lambda options: OnnxExporter(opset=options.opset),
    "torchscript": lambda options: TorchScriptExporter(),
}

#: What YOLOv5 offers and this program does not.
ELSEWHERE = ("openvino", "engine", "coreml", "saved_model", "pb", "tflite", "edgetpu", "tfjs", "paddle")


def export(options: ExportOptions) -> list[Path]:
    """Exports the fused form of a model, with its decoding, and checks every file against PyTorch.

    The files are written beside the weights: ``best.pt`` gives ``best.onnx``.

    Returns:
        The files, in the order of ``options.include``.

    Raises:
        UserError: if the options, the weights or the data are wrong.
        ExportError: if a file differs from the model; that file is not kept.
    """
    exporters = [make_exporter(name, options) for name in dict.fromkeys(options.include)]
    weights = Path(options.weights)
    model = load_model(weights)
    size = round_up(options.imgsz, model.max_stride)
    if size != options.imgsz:
        say(f"--imgsz {options.imgsz} rounded up to {size}, a multiple of the stride {model.max_stride}")
    fused, report = fuse(model, image_size=size)
    say(f"{weights}: fused {len(report.records)} blocks, {report.params:,} -> {report.params_fused:,} parameters")
    shapes = input_shapes(size, stride=model.max_stride, batch_size=options.batch_size, dynamic=options.dynamic)
    batches = sample_batches(shapes, data=options.data)
    files = []
    for exporter in exporters:
        target = weights.with_suffix(exporter.suffix)
        line = export_model(fused, target, exporter=exporter, batches=batches, dynamic=options.dynamic, report=report)
        say(line)
        files.append(target)
    return files


def make_exporter(name: str, options: ExportOptions) -> Exporter:
    """The exporter of a format.

    Raises:
        UserError: if there is no such format, or packages it needs are missing.
    """
    if name not in EXPORTERS:
        reason = "is not offered here" if name in ELSEWHERE else f"is unknown{suggest(name, EXPORTERS)}"
        raise UserError(f"--include {name}: this format {reason}; expected {' or '.join(EXPORTERS)}")
    exporter = EXPORTERS[name](options)
    missing = [package for package in exporter.requires if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"--include {name}: needs {', '.join(missing)}: pip install 'yolorep[export]'")
    return exporter


def input_shapes(size: int, *, stride: int, batch_size: int, dynamic: bool) -> list[tuple[int, int, int]]:
    """The (batch, height, width) a file is checked at: its only shape, or two of different batch, size and aspect."""
    if not dynamic:
        return [(batch_size, size, size)]
    short = round_up(size * 3 // 4, stride)
    return [(1, size, size), (2, short if short < size else size + stride, size)]


def export_model(
    fused: Detector,
    target: Path,
    *,
    exporter: Exporter,
    batches: Sequence[Tensor],
    dynamic: bool,
    report: FuseReport,
) -> str:
    """Writes one file, runs it, and keeps it only if it computes what the model computes.

    Args:
        fused: the model, in eval mode on the CPU.
        target: the file to write; replaced in one step once the new one is proved.
        exporter: the format.
        batches: uint8 images; a static file takes exactly the shape of the first.
        dynamic: whether the file takes any batch size, height and width.
        report: of the fuse; its summary goes into the file.

    Returns:
        A line for people: what was written and how far it is from the model.

    Raises:
        ExportError: if the format's tools fail, or the file differs from the model.
        UserError: if the file cannot be written.
    """
    shape = batches[0].shape
    metadata = Metadata(
        names=fused.names,
        strides=fused.strides,
        image_size=None if dynamic else (int(shape[2]), int(shape[3])),
        batch_size=None if dynamic else len(batches[0]),
        version=yolorep.__version__,
        fuse={
            "kinds": report.kinds,
            "max_error": report.max_error,
            "params": report.params,
            "params_fused": report.params_fused,
            "kept": [kept.name for kept in report.kept],
        },
    )
    # torch.export takes a 1, and two equal numbers, for constants: the example of a dynamic file has neither.
    example = (
        torch.zeros(2, 3, int(shape[2]), int(shape[3]) + fused.max_stride) if dynamic else batches[0].float() / 255
    )
    with atomic_write(target) as temporary:
        try:
            exporter.write(Deployed(fused).eval(), temporary, example=example, metadata=metadata)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror})") from error
        try:
            comparison = compare(exporter.open(temporary), TorchBackend(fused), batches)
            comparison.require_equal()
        except (UserError, ExportError) as error:
            raise ExportError(f"{target}: not written: {str(error).replace(str(temporary), target.name)}") from error
        size = temporary.stat().st_size
    form = "any batch and image size" if dynamic else "input " + "x".join(map(str, shape))
    return f"{target}: {size / 1e6:.1f} MB, {form}; {comparison}"
