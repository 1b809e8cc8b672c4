"""YOLOv5's ``.pt`` files: what they hold, and their names for our tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolorep.limits import LONGEST_CLASS_NAME, MOST_CLASSES, MOST_LAYERS, are_class_names
from yolorep.models.detector import build_model
from yolorep.models.model_file import parse_config
from yolorep.nn.conv import Conv, ConvBN
from yolorep.nn.reparam import fused_form
from yolorep.weights.archive import Refused
from yolorep.weights.checkpoint import Checkpoint, norms_of
from yolorep.weights.pickles import Stub, check_plain

#: Modules of a file, and tensors and other values that these hold.
MAX_TENSORS = 100_000
#: Letters of a module's or a tensor's own name.
MAX_NAME = 64
#: The classes of detectors, also where YOLOv5 is a package inside another.
_DETECTOR = re.compile(r"(?:[\w.]+\.)?models\.yolo\.(?:DetectionModel|Model)")


@dataclass
class Yolov5Checkpoint:
    """What a YOLOv5 checkpoint says; its EMA where it still has one.

    Attributes:
        config: the model file it was built from, plain values.
        names: class names.
        state_dict: YOLOv5's keys to tensors in the file's precision, without caches.
        bn: key prefix of every BatchNorm to its (eps, momentum).
    """

    config: dict[str, Any]
    names: tuple[str, ...]
    state_dict: dict[str, Tensor]
    bn: dict[str, tuple[float, float]]


def is_yolov5(content: Any) -> bool:
    """Whether this is what a YOLOv5 file of a detector describes."""
    model = _model(content)
    return model is not None and _DETECTOR.fullmatch(model.qualified_name) is not None


def load_yolov5(content: Any, path: Path) -> Checkpoint:
    """What a YOLOv5 file describes as one of our checkpoints, to be called within :func:`reading`.

    A file that YOLOv5 has fused has no BatchNorms, and becomes a fused checkpoint.

    Raises:
        Refused: if it makes no sense.
        UserError: one line, if it has rows that are unknown.
    """
    foreign = interpret(content)
    with torch.device("meta"):  # for its names
        model = build_model(parse_config(foreign.config, source=str(path)), names=foreign.names).eval()
        fused = bool(norms_of(model)) and not foreign.bn
        if fused:
            model = fused_form(model)
    theirs = theirs_to_ours(model)
    norms = dict(norms_of(model))
    bn = {}
    for name, values in foreign.bn.items():
        mine = theirs.get(f"{name}.weight", "").removesuffix(".weight")
        if mine in norms and values != (norms[mine].eps, norms[mine].momentum):
            bn[mine] = values
    weights = {theirs.get(name, name): _float(tensor) for name, tensor in foreign.state_dict.items()}
    return Checkpoint(path, model.config.to_dict(), foreign.names, weights, bn=bn, fused=fused, of_yolov5=True)


def theirs_to_ours(model: nn.Module) -> dict[str, str]:
    """YOLOv5's name of every tensor to ours."""
    return {theirs: ours for ours, theirs in yolov5_names(model).items()}


def yolov5_names(model: nn.Module) -> dict[str, str]:
    """Our name of every tensor to YOLOv5's.

    YOLOv5's Conv holds convolution and norm itself; ours holds them in a unit called ``conv``.
    """
    renamed = {}
    units = [f"{name}." if name else "" for name, m in model.named_modules() if isinstance(m, Conv)]
    for unit in units:
        if isinstance(model.get_submodule(f"{unit}conv"), ConvBN):
            renamed[f"{unit}conv.conv."] = f"{unit}conv."
            renamed[f"{unit}conv.bn."] = f"{unit}bn."
    names = {}
    for name in model.state_dict():
        unit, _, leaf = name.rpartition(".")
        names[name] = renamed[f"{unit}."] + leaf if f"{unit}." in renamed else name
    return names


def interpret(content: Any) -> Yolov5Checkpoint:
    """What the content of a file says, to be called within :func:`reading`.

    Raises:
        Refused: if it is no YOLOv5 checkpoint.
    """
    model = _model(content)
    if model is None:
        raise Refused("expected a checkpoint with a 'model', as YOLOv5 saves it")
    state = _attributes(model)
    config, names = state.get("yaml"), state.get("names", [])
    if not isinstance(config, dict):
        raise Refused("the model does not carry its YAML; expected a YOLOv5 detection model")
    check_plain(config, what="its model file")
    config = {key: value for key, value in _plain(config).items() if isinstance(key, str)}
    names = [names[key] for key in sorted(names)] if isinstance(names, Mapping) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str | int) for name in names):
        raise Refused("expected class names, found something else")
    names = [str(name) for name in names]
    if not are_class_names(names):
        raise Refused(
            f"expected 1 to {MOST_CLASSES:,} classes with names of up to {LONGEST_CLASS_NAME:,} letters, "
            f"found {len(names):,} or a longer one"
        )
    read = _Modules({}, {}, MOST_LAYERS, MAX_TENSORS)
    read.collect(model, "", depth=0)
    if len(names) != config.get("nc"):
        config["nc"] = len(names)
    return Yolov5Checkpoint(config, tuple(names), read.tensors, read.norms)


def _model(content: Any) -> Stub | None:
    """The model in a file, which may also be all that it holds; its EMA if there is one."""
    found = [content.get("ema"), content.get("model")] if isinstance(content, dict) else [content]
    return next((model for model in found if isinstance(model, Stub)), None)


def _attributes(stub: Stub) -> dict[str, Any]:
    state = stub.state
    if not isinstance(state, dict):
        raise Refused(f"{stub.qualified_name} without attributes")
    return state


@dataclass
class _Modules:
    """Walks ``_parameters``, ``_buffers`` and ``_modules`` as ``state_dict()`` would, as long as they are not too many.

    Modules may share others, so that a small file could describe billions.
    """

    tensors: dict[str, Tensor]
    norms: dict[str, tuple[float, float]]
    layers_left: int
    values_left: int

    def collect(self, module: Stub, prefix: str, *, depth: int) -> None:
        self.layers_left -= 1
        if self.layers_left < 0 or depth > 32:
            raise Refused(f"it has more than {MOST_LAYERS:,} layers, or 32 in each other")
        state = _attributes(module)
        for group in ("_parameters", "_buffers", "_modules"):
            names = state.get(group) or {}
            self.values_left -= len(names)
            if self.values_left < 0 or not all(isinstance(name, str) and len(name) <= MAX_NAME for name in names):
                raise Refused(f"it has more than {MAX_TENSORS:,} tensors, or one whose name is none")
        for group in ("_parameters", "_buffers"):
            for name, value in (state.get(group) or {}).items():
                # Detect's anchor_grid and grid are caches of image sizes long gone.
                if isinstance(value, Tensor) and name not in ("anchor_grid", "grid"):
                    self.tensors[f"{prefix}{name}"] = value
        if module.qualified_name.startswith("torch.nn.modules.batchnorm."):
            eps, momentum = float(state["eps"]), float(state["momentum"])
            if not (math.isfinite(eps) and eps >= 0 and 0 <= momentum <= 1):
                raise Refused(f"a BatchNorm with eps {eps} and momentum {momentum}")
            self.norms[prefix.removesuffix(".")] = (eps, momentum)
        for name, child in (state.get("_modules") or {}).items():
            if isinstance(child, Stub):
                self.collect(child, f"{prefix}{name}.", depth=depth + 1)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
