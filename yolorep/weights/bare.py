"""Files that hold tensors and nothing else: what they belong to, and with a model file, a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolorep.errors import UserError
from yolorep.models.detector import build_network
from yolorep.models.model_file import ModelConfig
from yolorep.weights.checkpoint import Checkpoint, norms_of
from yolorep.weights.kinds import OTHERS, kind_of_tensors
from yolorep.weights.layouts import detect_layout
from yolorep.weights.pickles import Stub
from yolorep.weights.yolov5 import theirs_to_ours

#: What programs keep their tensors under, the averaged ones first.
_WRAPPERS = ("ema", "state_dict_ema", "model_ema", "model", "model_state_dict", "state_dict", "net", "module")
#: Channels of the first convolution to the letter of a YOLOv5 model, and the number of its head to the end of its name.
_WIDTHS = {16: "n", 32: "s", 48: "m", 64: "l", 80: "x"}
_HEADS = {24: "", 33: "6"}


def bare_tensors(content: Any) -> dict[str, Tensor]:
    """Tensors by name, whatever they are wrapped in; none if there are none."""
    for _ in range(4):  # a file may also hold itself
        if not isinstance(content, Mapping):
            return {}
        found = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None or len(found) > len(content) / 2:
            break
        content = inner
    return _without_prefix(found)


def checkpoint_of(tensors: Mapping[str, Tensor], config: ModelConfig, path: Path) -> Checkpoint:
    """The tensors as weights of a model, which they need not all fit; their classes have no names.

    Raises:
        UserError: if the model cannot be built, or the tensors are those of its fused form.
    """
    config = replace(config, expand=None)  # extra branches come after the weights
    with torch.device("meta"):
        model = build_network(config)
    if norms_of(model) and not any(name.endswith(".running_mean") for name in tensors):
        raise UserError(f"{path}: expected weights to train, found fused ones, whose BatchNorms are gone")
    theirs = theirs_to_ours(model)
    weights = {theirs.get(name, name): value.float() for name, value in tensors.items() if not value.is_complex()}
    head = _head(tensors)
    count = config.num_classes if head is None else _classes(tensors, head)
    return Checkpoint(path, config.to_dict(), tuple(f"class{index}" for index in range(count)), weights)


def kind_of_content(content: Any, path: Path) -> str:
    """What a file is that torch wrote and that is no checkpoint, and what to do with it."""
    objects = [content, *(content.get(key) for key in _WRAPPERS)] if isinstance(content, Mapping) else [content]
    for found in objects:
        if isinstance(found, Stub):
            return f"a pickled object of class {found.qualified_name}, which is not known here; {OTHERS}"
    if isinstance(content, Mapping) and isinstance(content.get("format"), str):
        return repr(content["format"][:40])
    tensors = bare_tensors(content)
    if not tensors:
        return f"a {type(content).__name__} without any tensors by name; get the file of weights"
    if layout := detect_layout(tensors):
        return (
            f"ImageNet weights of a {layout.family} ({layout.publisher}); classify with them, or train a detector: "
            f"--cfg a model with {layout.family} rows --backbone-weights {path}"
        )
    head = _head(tensors)
    if "model.0.conv.conv.weight" in tensors:
        return f"the plain state_dict of a model of yolorep; train from it with --cfg FILE --weights {path}"
    if head is None:
        return kind_of_tensors(tensors)
    if not any(name.endswith(".running_mean") for name in tensors):
        return "the plain state_dict of a fused YOLOv5 model, which cannot be trained; get the file it was made from"
    stem = tensors.get("model.0.conv.weight")
    letter = _WIDTHS.get(len(stem)) if stem is not None and stem.ndim else None
    shipped = f"cfg/yolov5/{letter}{_HEADS[head]}.yaml" if letter and head in _HEADS else "FILE"
    named = f"yolov5{letter}{_HEADS[head]}" if shipped != "FILE" else "a YOLOv5 model"
    return (
        f"a plain state_dict, probably of {named} ({_classes(tensors, head)} classes), without layers and class names; "
        f"train from it with --cfg {shipped} --weights {path}"
    )


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors named from ``model.0`` on, for programs that hold the model in one of their own; else as they are."""
    for name in tensors:
        if found := re.match(r"((?:\w{1,20}\.){1,4}?)model\.\d", name):
            held = {name.removeprefix(found[1]): value for name, value in tensors.items() if name.startswith(found[1])}
            return held if len(held) > len(tensors) / 2 else tensors
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _head(tensors: Mapping[str, Tensor]) -> int | None:
    """Number of the last layer of a YOLOv5 model, or one of ours with its head."""
    for name, anchors in tensors.items():
        match = re.fullmatch(r"model\.(\d{1,4})\.anchors", name)
        if not match or anchors.ndim != 3 or not anchors.shape[1]:
            continue
        head = f"model.{match[1]}"
        if f"{head}.m.0.weight" in tensors and f"{head}.proto.cv1.conv.weight" not in tensors:
            return int(match[1])
    return None


def _classes(tensors: Mapping[str, Tensor], head: int) -> int:
    """How many classes the head's maps have."""
    anchors, maps = tensors[f"model.{head}.anchors"], tensors[f"model.{head}.m.0.weight"]
    return max(maps.shape[0] // anchors.shape[1] - 5, 1) if maps.ndim else 1
