"""Checkpoints: tensors and plain values in one file, never a pickled class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolorep.errors import UserError
from yolorep.files import SteadyFile, atomic_write
from yolorep.limits import are_class_names
from yolorep.models.classifier import Classifier
from yolorep.models.detector import Detector, build_network
from yolorep.models.model_file import parse_config
from yolorep.models.network import Network
from yolorep.nn.reparam import fused_form
from yolorep.ops.letterbox import Geometry, is_geometry
from yolorep.weights.pickles import check_plain, read_content, reading

FORMAT = "yolorep-1"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file.
        model_config: the model file as plain values, parts read in.
        names: class names.
        state_dict: weights while training.
        ema: averaged weights, which are the ones to use; None where the weights themselves are.
        bn: name of every BatchNorm whose (eps, momentum) are not its class's.
        fused: weights of the fused form, which cannot be trained.
        training: optimizer, progress, options and so on, of an unfinished run; empty otherwise.
        data: the dataset YAML it was trained on, as it was given; empty if unknown.
        geometry: of the images it was trained on.
        of_yolov5: it was read from a file of YOLOv5.
    """

    path: Path
    model_config: dict[str, Any]
    names: tuple[str, ...]
    state_dict: dict[str, Tensor]
    ema: dict[str, Tensor] | None = None
    bn: dict[str, tuple[float, float]] = field(default_factory=dict)
    fused: bool = False
    training: dict[str, Any] = field(default_factory=dict)
    data: str = ""
    geometry: Geometry = field(default_factory=Geometry)
    of_yolov5: bool = False

    def build(self, *, use_ema: bool = True) -> Detector | Classifier:
        """Builds the network and loads its weights, all of them.

        Args:
            use_ema: the averaged weights where there are any.

        Returns:
            A float32 model in eval mode.

        Raises:
            UserError: if the weights do not fit the model.
        """
        config = parse_config(self.model_config, source=f"{self.path} (model_config)")
        model = build_network(config, names=self.names).eval()
        if self.fused:
            model = fused_form(model)
        set_bn_values(model, self.bn)
        model.geometry = self.geometry
        weights = self.ema if use_ema and self.ema is not None else self.state_dict
        load_strictly(model, weights, source=str(self.path))
        return model.float()


def save_checkpoint(
    path: Path,
    model: Network,
    *,
    ema: nn.Module | None = None,
    training: Mapping[str, Any] | None = None,
    data: str = "",
    fused: bool = False,
) -> None:
    """Writes a checkpoint: to a temporary file, synced, renamed. An older file survives any failure.

    Args:
        path: where to.
        model: gives weights, config, names and BatchNorm values.
        ema: averaged weights.
        training: plain values and tensors that a run needs to go on.
        data: the dataset YAML, as it was given.
        fused: the model is fused.

    Raises:
        OSError: if the disk is full or the folder cannot be written.
    """
    content = {
        "format": FORMAT,
        "model_config": model.config.to_dict(),
        "names": list(model.names),
        "bn": bn_values(model),
        "state_dict": model.state_dict(),
        "ema": None if ema is None else ema.state_dict(),
        "fused": fused,
        "training": dict(training or {}),
        "data": data,
        "geometry": asdict(model.geometry),
    }
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        steady = SteadyFile(file)
        torch.save(content, steady)  # type: ignore[arg-type]
        steady.check()


def is_ours(content: Any) -> bool:
    """Whether this is what :func:`save_checkpoint` wrote, of whatever format version."""
    return isinstance(content, dict) and ("model_config" in content or content.get("format") == FORMAT)


def parse_checkpoint(content: Any, path: Path) -> Checkpoint:
    """What :func:`save_checkpoint` wrote, checked; to be called within :func:`yolorep.weights.pickles.reading`.

    Raises:
        UserError: one line, if it is something else or incomplete.
    """
    if content.get("format") != FORMAT:
        found = content.get("format")
        found = repr(found[:40]) if isinstance(found, str) else "another one"
        raise UserError(f"{path}: expected a checkpoint of format {FORMAT!r}, found {found}")
    check_plain(content, what="the checkpoint")
    for key, fits in _FORM.items():
        if not fits(content.get(key)) and (key in content or key not in _LATER):
            raise UserError(f"{path}: a damaged checkpoint: {key} {'does not fit' if key in content else 'is missing'}")
    return Checkpoint(
        path=path,
        model_config=content["model_config"],
        names=tuple(content["names"]),
        state_dict=content["state_dict"],
        ema=content["ema"],
        bn=content["bn"],
        fused=content["fused"],
        training=content["training"],
        data=content["data"],
        geometry=Geometry(**content.get("geometry", {})),
    )


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is one that :func:`save_checkpoint` wrote, of whatever format version."""
    try:
        with reading(Path(path), "checkpoint"):
            return is_ours(read_content(Path(path)))
    except UserError:
        return False


def _is_tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def _is_norms(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(pair, tuple | list)
        and [type(number) for number in pair] == [float, float]
        and 0 <= pair[0] < math.inf
        and 0 <= pair[1] <= 1
        for pair in value.values()
    )


#: What our files hold, key by key.
_FORM: dict[str, Callable[[Any], bool]] = {
    "model_config": lambda value: isinstance(value, dict),
    "names": are_class_names,
    "state_dict": _is_tensors,
    "ema": lambda value: value is None or _is_tensors(value),
    "bn": _is_norms,
    "fused": lambda value: isinstance(value, bool),
    "training": lambda value: isinstance(value, dict),
    "data": lambda value: isinstance(value, str),
    "geometry": is_geometry,
}
#: Keys that files of earlier versions lack.
_LATER = frozenset({"geometry"})


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], *, source: str) -> None:
    """Loads weights whose names and shapes must all match.

    Raises:
        UserError: counting and naming what is missing, unexpected, of another shape, or not finite.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    differing = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if missing or unexpected or differing:
        faults = [
            f"{len(names)} {what} ({names[0]:.80}{', …' if len(names) > 1 else ''})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", differing))
            if names
        ]
        raise UserError(f"{source}: the weights do not fit the model: {', '.join(faults)} of {len(own)} tensors")
    for name, tensor in weights.items():
        if own[name].is_floating_point() != tensor.is_floating_point() or tensor.is_complex():
            raise UserError(f"{source}: expected {name} as {own[name].dtype}, found {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{source}: {name} is not finite: the training that wrote this file diverged")
        if name.endswith("running_var") and (tensor < 0).any():
            raise UserError(f"{source}: expected variances of at least 0, found {name} with others; it is damaged")
    model.load_state_dict(dict(weights))


def bn_values(model: Network) -> dict[str, tuple[float, float]]:
    """(eps, momentum) of every BatchNorm where they differ from what building the model sets."""
    with torch.device("meta"):
        fresh = dict(norms_of(build_network(model.config)))
    values = {}
    for name, norm in norms_of(model):
        momentum = norm.momentum if norm.momentum is not None else 0.0
        if name in fresh and (norm.eps, norm.momentum) != (fresh[name].eps, fresh[name].momentum):
            values[name] = (norm.eps, momentum)
    return values


def set_bn_values(model: nn.Module, values: Mapping[str, tuple[float, float]]) -> None:
    """Gives the BatchNorms named their (eps, momentum)."""
    norms = dict(norms_of(model))
    for name, (eps, momentum) in values.items():
        if name in norms:
            norms[name].eps, norms[name].momentum = eps, momentum


def norms_of(model: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    """Every BatchNorm by its name."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
