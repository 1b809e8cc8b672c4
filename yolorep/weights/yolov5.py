"""YOLOv5's ``.pt`` files: what they hold, and their names for our tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from yolorep.models.detector import build_model
from yolorep.models.parser import parse_config
from yolorep.nn.conv import Conv, ConvBN
from yolorep.weights.checkpoint import Checkpoint, norms_of
from yolorep.weights.pickles import Refused, Stub, reading, unpickle


@dataclass
class Yolov5Checkpoint:
    """What a YOLOv5 checkpoint says.

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


def read_yolov5(path: Path) -> Yolov5Checkpoint:
    """Reads a checkpoint; the EMA is preferred where the file still has one.

    Raises:
        UserError: one line, if the file is no YOLOv5 checkpoint or wants to run something.
    """
    with reading(path, "YOLOv5 checkpoint"):
        return _interpret(unpickle(path))


def load_yolov5(path: Path) -> Checkpoint:
    """A YOLOv5 file as one of our checkpoints.

    Raises:
        UserError: one line, if the file is no YOLOv5 checkpoint, wants to run something, or has rows that are unknown.
    """
    foreign = read_yolov5(path)
    model = build_model(parse_config(foreign.config, source=str(path)), names=foreign.names)
    ours = yolov5_names(model)
    theirs = {name: mine for mine, name in ours.items()}
    norms = dict(norms_of(model))
    bn = {}
    for name, values in foreign.bn.items():
        mine = theirs.get(f"{name}.weight", "").removesuffix(".weight")
        if mine in norms and values != (norms[mine].eps, norms[mine].momentum):
            bn[mine] = values
    weights = {theirs.get(name, name): _float(tensor) for name, tensor in foreign.state_dict.items()}
    return Checkpoint(path, model.config.to_dict(), foreign.names, weights, bn=bn)


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


def _interpret(checkpoint: Any) -> Yolov5Checkpoint:
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("ema") or checkpoint.get("model"), Stub):
        raise Refused("expected a checkpoint with a 'model', as YOLOv5 saves it")
    model = checkpoint.get("ema") or checkpoint["model"]
    state = _attributes(model)
    config = state.get("yaml")
    if not isinstance(config, dict):
        raise Refused("the model does not carry its YAML; expected a YOLOv5 detection model")
    config = {key: value for key, value in _plain(config).items() if isinstance(key, str)}
    names = state.get("names", [])
    names = tuple(str(names[key]) for key in sorted(names)) if isinstance(names, Mapping) else tuple(map(str, names))
    tensors: dict[str, Tensor] = {}
    norms: dict[str, tuple[float, float]] = {}
    _collect(model, "", tensors, norms, depth=0)
    if len(names) != config.get("nc"):
        config["nc"] = len(names)
    return Yolov5Checkpoint(config, names, tensors, norms)


def _attributes(stub: Stub) -> dict[str, Any]:
    state = stub.state
    if not isinstance(state, dict):
        raise Refused(f"{stub.qualified_name} without attributes")
    return state


def _collect(
    module: Stub, prefix: str, tensors: dict[str, Tensor], norms: dict[str, tuple[float, float]], *, depth: int
) -> None:
    """Walks ``_parameters``, ``_buffers`` and ``_modules`` as ``state_dict()`` would."""
    if depth > 32:
        raise Refused("modules are nested too deeply")
    state = _attributes(module)
    for group in ("_parameters", "_buffers"):
        for name, value in (state.get(group) or {}).items():
            # Detect's anchor_grid and grid are caches of image sizes long gone.
            if isinstance(value, Tensor) and name not in ("anchor_grid", "grid"):
                tensors[f"{prefix}{name}"] = value
    if module.qualified_name.startswith("torch.nn.modules.batchnorm."):
        norms[prefix.removesuffix(".")] = (float(state["eps"]), float(state["momentum"]))
    for name, child in (state.get("_modules") or {}).items():
        if isinstance(child, Stub):
            _collect(child, f"{prefix}{name}.", tensors, norms, depth=depth + 1)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
