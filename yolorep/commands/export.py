"""``yolorep export``: weights in, checked files out."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from yolorep.console import say
from yolorep.device import select_device
from yolorep.errors import UserError, suggest
from yolorep.formats import FORMATS, format_of, load_format
from yolorep.formats.base import Format
from yolorep.formats.metadata import Metadata
from yolorep.formats.samples import sample_batches
from yolorep.formats.write import input_shapes, write_checked
from yolorep.inference.open import load_model
from yolorep.models.image_size import choose_size
from yolorep.nn.reparam import fuse
from yolorep.ops.letterbox import bounds
from yolorep.options import ExportOptions

#: What YOLOv5 offers and this program does not.
ELSEWHERE = ("openvino", "engine", "coreml", "saved_model", "pb", "tflite", "edgetpu", "tfjs", "paddle")


def run(options: ExportOptions) -> list[Path]:
    """Exports the fused form of a model, with its decoding, and checks every file against PyTorch.

    The files are written beside the weights: ``best.pt`` gives ``best.onnx``.

    Returns:
        The files, in the order of ``options.include``.

    Raises:
        UserError: if the options, the weights or the data are wrong.
        ExportError: if a file differs from the model; that file is not kept.
    """
    if not options.include:
        raise UserError(f"--include: expected at least one of {', '.join(FORMATS)}, found none")
    formats = [find_format(name) for name in dict.fromkeys(options.include)]
    _tell_unused(options, formats)
    device = select_device(options.device)
    if not options.weights:
        raise UserError("--weights: missing; expected a checkpoint (.pt)")
    weights = Path(options.weights)
    if format_of(weights) is not None:
        raise UserError(f"{weights}: expected a checkpoint (.pt) to export, found an exported file")
    model = load_model(weights).for_inference(nms_free=options.nms_free)
    size = choose_size(options.imgsz, geometry=model.geometry, stride=model.max_stride, source=options.weights)
    fused, report = fuse(model, image_size=max(bounds(size)))
    say(f"{weights}: fused {len(report.records)} blocks, {report.params:,} -> {report.params_fused:,} parameters")
    shapes = input_shapes(size, stride=model.max_stride, batch_size=options.batch_size, dynamic=options.dynamic)
    batches = sample_batches(shapes, data=options.data)
    metadata = Metadata.of(
        fused,
        image_size=None if options.dynamic else bounds(size),
        batch_size=None if options.dynamic else options.batch_size,
        fuse=report.to_dict(),
    )
    files = []
    for made in formats:
        target = weights.with_name(weights.stem + made.suffix)
        settings = {name: getattr(options, name) for name in made.settings}
        say(write_checked(fused, target, made=made, metadata=metadata, batches=batches, device=device, **settings))
        files.append(target)
    return files


def find_format(name: str) -> Format:
    """The format that ``--include`` names, which can be written here.

    Raises:
        UserError: if there is no such format, or packages it needs are missing.
    """
    if name not in FORMATS:
        reason = "is not offered here" if name in ELSEWHERE else f"is unknown{suggest(name, FORMATS)}"
        raise UserError(f"--include {name}: this format {reason}; expected {' or '.join(FORMATS)}")
    made = load_format(name)
    missing = [package for package in made.requires if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"--include {name}: needs {', '.join(missing)}: pip install 'yolorep[{made.extra}]'")
    return made


def _tell_unused(options: ExportOptions, formats: Sequence[Format]) -> None:
    """Says which options were given that belong to formats not asked for."""
    used = {name for made in formats for name in made.settings}
    others = {name for name in FORMATS for name in load_format(name).settings} - used
    for entry in fields(options):
        if entry.name in others and getattr(options, entry.name) != entry.default:
            say(f"--{entry.name.replace('_', '-')}: without effect on {' and '.join(options.include)}")
