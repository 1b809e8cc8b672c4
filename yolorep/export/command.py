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
from yolorep.engine.device import select_device
from yolorep.engine.image_size import fit_image_size
from yolorep.errors import ExportError, UserError, suggest
from yolorep.export.base import Deployed, Exporter
from yolorep.export.onnx import OnnxExporter
from yolorep.export.samples import sample_batches
from yolorep.export.torchscript import TorchScriptExporter
from yolorep.export.verify import compare
from yolorep.files import atomic_write
from yolorep.models.detector import Detector
from yolorep.nn.reparam import fuse
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
    device = select_device(options.device)
    if not options.weights:
        raise UserError("--weights: missing; expected a checkpoint (.pt)")
    weights = Path(options.weights)
    model = load_model(weights).for_inference(nms_free=options.nms_free)
    size = fit_image_size(options.imgsz, model.max_stride)
    fused, report = fuse(model, image_size=size)
    say(f"{weights}: fused {len(report.records)} blocks, {report.params:,} -> {report.params_fused:,} parameters")
    shapes = input_shapes(size, stride=model.max_stride, batch_size=options.batch_size, dynamic=options.dynamic)
    batches = sample_batches(shapes, data=options.data)
    metadata = Metadata(
        names=fused.names,
        stride=fused.max_stride,
        strides=fused.strides,
        image_size=None if options.dynamic else (size, size),
        batch_size=None if options.dynamic else options.batch_size,
        version=yolorep.__version__,
        nms_free=fused.nms_free,
        fuse=report.to_dict(),
    )
    files = []
    for exporter in exporters:
        target = weights.with_suffix(exporter.suffix)
        say(export_model(fused, target, exporter=exporter, metadata=metadata, batches=batches, device=device))
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
    metadata: Metadata,
    batches: Sequence[Tensor],
    device: torch.device,
) -> str:
    """Writes one file, runs it, and keeps it only if it computes what the model computes.

    Args:
        fused: the model, in eval mode on the CPU.
        target: the file to write; replaced in one step once the new one is proved.
        exporter: the format.
        metadata: goes into the file, and says whether it takes one input shape or any.
        batches: (n, 3, height, width) uint8 RGB images to compare on.
        device: where to compare.

    Returns:
        A line for people: what was written and how far it is from the model.

    Raises:
        ExportError: if the file cannot be run, or differs from the model.
        UserError: if it cannot be written.
    """
    if metadata.image_size is None or metadata.batch_size is None:
        # All different, and none of them 1: torch.export would take those for constants.
        example, form = torch.zeros(2, 3, 3 * fused.max_stride, 4 * fused.max_stride), "any batch, height and width"
    else:
        example = torch.zeros(metadata.batch_size, 3, *metadata.image_size)
        form = f"input {'x'.join(map(str, example.shape))}"
    with atomic_write(target) as temporary:
        try:
            exporter.write(Deployed(fused).eval(), temporary, example=example, metadata=metadata)
        except OSError as error:
            raise UserError(f"{target}: cannot be written ({error.strerror})") from error
        except (RuntimeError, ValueError, TypeError) as error:  # how torch says that the format cannot express a model
            raise ExportError(f"{target}: could not be exported: {str(error).strip().splitlines()[0]}") from error
        try:
            comparison = compare(exporter.open(temporary, device=device), TorchBackend(fused, device=device), batches)
            comparison.require_equal()
        except (UserError, ExportError) as error:
            raise ExportError(f"{target}: not written: {str(error).replace(str(temporary), 'the file')}") from error
        size = temporary.stat().st_size
    if metadata.nms_free:
        form += ", needs no NMS"
    return f"{target}: {size / 1e6:.1f} MB, {form}; {comparison}"
