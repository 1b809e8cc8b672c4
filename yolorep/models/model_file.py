"""Model files as plain data: their keys checked, their parts read in, their rows as they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolorep.errors import UserError, suggest
from yolorep.models import limits, values
from yolorep.nn.expand import ExpandRule
from yolorep.nn.registry import Scale

SECTIONS = ("backbone", "neck", "head")
ROW_FORM = "[from, repeats, module, args] or [from, repeats, module, args, tag]"
#: Keys that the files inside YOLOv5 checkpoints carry beside the model.
_IGNORED = frozenset({"yaml_file", "inplace", "names", "stride"})
#: Keys that the files of ultralytics have and those of YOLOv5 have not.
_ULTRALYTICS = frozenset({"scales", "scale", "end2end", "reg_max", "kpt_shape", "text_model"})


@dataclass(frozen=True)
class ModelConfig:
    """A model file as plain data, its parts read in.

    Attributes:
        num_classes, depth_multiple, width_multiple, channel_multiple, channels: as in the file (``nc``, …, ``ch``).
        anchors: per level widths and heights in pixels, a number of anchors to be fitted, or None.
        activation: such as ``nn.LeakyReLU(0.1)``, or None.
        branches: k×k branches of every RepConv, also those inside other rows, or None for their default.
        drop_path: rate of stochastic depth in the last block that has it; earlier ones have less, linearly from 0.
        expand: the rule by which plain convolutions have extra branches to train, such as ``mobileone:k=4``, or None.
        sections: section name to its rows.
        source: where it came from, for messages.
        composed: sections that came from a file of their own.
    """

    num_classes: int
    sections: Mapping[str, Sequence[Any]]
    depth_multiple: float = 1.0
    width_multiple: float = 1.0
    channel_multiple: int = 8
    channels: int = 3
    anchors: Sequence[Sequence[float]] | int | None = None
    activation: str | None = None
    branches: int | None = None
    drop_path: float = 0.0
    expand: str | None = None
    source: str = "model"
    composed: frozenset[str] = field(default_factory=frozenset)

    @property
    def scale(self) -> Scale:
        """The multipliers."""
        return Scale(self.depth_multiple, self.width_multiple, self.channel_multiple)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :func:`parse_config` reads back, in YOLOv5's keys."""
        plain: dict[str, Any] = {
            "nc": self.num_classes,
            "depth_multiple": self.depth_multiple,
            "width_multiple": self.width_multiple,
            "channel_multiple": self.channel_multiple,
            "ch": self.channels,
        }
        if self.anchors is not None:
            plain["anchors"] = self.anchors
        if self.activation is not None:
            plain["activation"] = self.activation
        if self.branches is not None:
            plain["branches"] = self.branches
        if self.drop_path:
            plain["drop_path"] = self.drop_path
        if self.expand is not None:
            plain["expand"] = self.expand
        return plain | {name: list(rows) for name, rows in self.sections.items()}


def load_config(name: str | Path) -> ModelConfig:
    """Reads a model file and the files its sections name.

    Raises:
        UserError: one line with every fault.
    """
    from yolorep.config import find_config, load_yaml  # late: pydantic is not needed to run weights

    path = find_config(name, "model")
    return parse_config(load_yaml(path), source=str(path), folder=path.parent)


def parse_config(value: Any, *, source: str = "model", folder: Path | None = None) -> ModelConfig:
    """Checks the mapping of a model file.

    Args:
        value: what the YAML holds.
        source: named in errors.
        folder: where sections given as file names are looked for; None refuses them.

    Raises:
        UserError: one line with every fault.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{source}: expected a model file (a mapping with nc, backbone and head), found {_kind(value)}")
    _check_plain(value, source)
    if theirs := sorted(_ULTRALYTICS.intersection(value)):
        raise UserError(
            f"{source}: expected a model file of YOLOv5's form, found one of ultralytics ({', '.join(theirs)}), whose "
            "layers are not built here; take one of cfg/, such as cfg/yolov5/n-free.yaml, which has no anchors either"
        )
    faults: list[str] = []
    known = {
        "nc": ("num_classes", values.classes),
        "depth_multiple": ("depth_multiple", values.multiple),
        "width_multiple": ("width_multiple", values.multiple),
        "channel_multiple": ("channel_multiple", values.positive_int),
        "ch": ("channels", values.rgb),
        "anchors": ("anchors", values.anchors),
        "activation": ("activation", values.activation_text),
        "branches": ("branches", values.count),
        "drop_path": ("drop_path", values.rate),
        "expand": ("expand", lambda entry: str(ExpandRule.parse(entry))),
    }
    settings: dict[str, Any] = {}
    sections: dict[str, list[Any]] = {}
    composed = set()
    for key, entry in value.items():
        if len(faults) > limits.MOST_FAULTS:
            break
        if key in known:
            name, check = known[key]
            if entry is not None:
                try:
                    settings[name] = check(entry)
                except ValueError as error:
                    faults.append(f"{key}: {error}")
        elif key in SECTIONS:
            rows = entry
            if isinstance(entry, str):
                if folder is None:
                    raise UserError(f"{source}: {key} names the file {entry!r}, but only rows are allowed here")
                from yolorep.config import load_yaml

                part = _part(folder, entry, source, key)
                rows = load_yaml(part)
                _check_plain(rows, f"{source}: {part}")
                composed.add(key)
            if not isinstance(rows, list) or not rows:
                faults.append(f"{key}: expected a list of rows {ROW_FORM}, found {_kind(rows)}")
            else:
                sections[key] = rows
        elif key == "imports":
            faults.append("imports: a model file runs no code; give --import FILE.py, or import the module in Python")
        elif not (isinstance(key, str) and key in _IGNORED):
            faults.append(f"{key}: unknown key{suggest(str(key), [*known, *SECTIONS], taken=value)}")
    for key in ("nc", "head"):
        if value.get(key) is None:
            faults.append(f"{key}: missing")
    if faults:
        raise UserError(f"{source}: {limits.told(faults)}")
    ordered = {name: sections[name] for name in SECTIONS if name in sections}
    return ModelConfig(sections=ordered, source=source, composed=frozenset(composed), **settings)


def _check_plain(value: Any, source: str) -> None:
    try:
        limits.check_plain(value)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def _part(folder: Path, name: str, source: str, key: str) -> Path:
    path = folder / name
    if not path.is_file():
        near = [other.name for other in folder.glob("*.yaml")]
        raise UserError(f"{source}: {key} names {name!r}, but there is no {path}{suggest(name, near)}")
    return path


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {limits.row_text(value)}"
