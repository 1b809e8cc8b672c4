"""YAML files: found, read safely, checked with one error for all their faults."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from yolorep.errors import UserError, shown, suggest
from yolorep.files import is_device_or_pipe
from yolorep.options import Options
from yolorep.plain_yaml import LARGEST_FILE, YamlFault, parse_yaml

Model = TypeVar("Model", bound=BaseModel)
Kind = Literal["model", "data", "hyp"]
#: Where the packaged files of a kind are.
_FOLDERS: dict[Kind, str] = {"model": "cfg", "data": "data", "hyp": "cfg/hyp"}


def cache_dir() -> Path:
    """The user's cache directory: ``$YOLOREP_CACHE``, else ``$XDG_CACHE_HOME/yolorep``, else ``~/.cache/yolorep``.

    A user without a home folder, as in many containers, has one among the temporary files.

    Raises:
        UserError: if another user made that one: what is in it cannot be trusted.
    """
    if chosen := os.environ.get("YOLOREP_CACHE"):
        return Path(chosen)
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "yolorep"
    home = os.path.expanduser("~")  # Path.home() raises where there is none
    if home != "~":
        return Path(home) / ".cache" / "yolorep"
    user = os.getuid()
    folder = Path(tempfile.gettempdir()) / f"yolorep-{user}"
    if folder.exists() and folder.stat().st_uid != user:
        raise UserError(f"{folder}: expected a cache folder of user {user}, found another user's; set YOLOREP_CACHE")
    return folder


def resources_dir() -> Path:
    """The folder with the packaged ``cfg/`` and ``data/``: inside a wheel, or the repository of an editable install."""
    package = Path(__file__).parent
    return package / "resources" if (package / "resources").is_dir() else package.parent


def find_config(name: str | Path, kind: Kind) -> Path:
    """Finds a YAML file: in the working directory, then among the packaged ones.

    A packaged file is found by its path (``cfg/yolov5/n.yaml``) or by its name, with its folder's or alone:
    ``yolov5n``, ``yolov5/n``, ``yolov5n_mobileone``. Which one a name meant is said on stderr. ``.yaml`` may be left
    out.

    Args:
        name: what the user typed.
        kind: what the file is, which packaged files are looked through by.

    Raises:
        UserError: naming every path tried and the closest packaged file, or the files that share the name.
    """
    resources = resources_dir()
    spellings = dict.fromkeys((str(name), f"{str(name).removesuffix('.yaml')}.yaml"))
    tried = list(dict.fromkeys(folder / spelling for folder in (Path(), resources) for spelling in spellings))
    for path in tried:
        if path.is_file():
            return path
    packaged = _packaged(kind)
    meant = [path for path in packaged if _is_named(path, str(name))]
    if len(meant) > 1:
        raise UserError(f"{name}: {len(meant)} packaged files have this name; write one of {', '.join(meant)}")
    if meant:
        print(f"{name}: the packaged {meant[0]}", file=sys.stderr)  # stdout may be JSON
        return resources / meant[0]
    hint = suggest(str(name), [*packaged, *(short for path in packaged for short in _short_names(path))])
    raise UserError(f"{name}: no such file; tried {' and '.join(map(str, tried))}{hint}")


def lasting_name(name: str, kind: Kind) -> str:
    """A configuration as it is found from anywhere: a packaged one by its name, any other by its whole path.

    Raises:
        UserError: if there is no such file.
    """
    path, resources = find_config(name, kind).resolve(), resources_dir().resolve()
    return path.relative_to(resources).as_posix() if path.is_relative_to(resources / _FOLDERS[kind]) else str(path)


def _packaged(kind: Kind) -> list[str]:
    """The packaged files of a kind, relative to the resources; parts of models are none."""
    resources = resources_dir()
    folder = resources / _FOLDERS[kind]
    files = (path for path in folder.rglob("*.yaml") if not {"parts", "hyp"} & set(path.relative_to(folder).parts))
    return sorted(path.relative_to(resources).as_posix() for path in files)


def _is_named(path: str, name: str) -> bool:
    """Whether ``name`` is a file's own, or its folder's and its own: ``RepVGG-A0``, ``repvgg/a0``, ``repvgg_a0``."""
    parts = PurePath(name).parts
    plain = [re.sub(r"[-_./]", "", text).lower() for text in (name.removesuffix(".yaml"), *_short_names(path))]
    return plain[0] in plain[1:] and ".." not in parts and not PurePath(name).is_absolute()


def _short_names(path: str) -> tuple[str, str]:
    """A packaged file's own name, and its folder's with it."""
    return PurePath(path).stem, PurePath(path).parent.name + PurePath(path).stem


def load_yaml(path: Path, *, texts: Collection[str] = ()) -> Any:
    """Reads a YAML file as plain data (no tags, no code), within the limits of :mod:`yolorep.plain_yaml`.

    Args:
        path: the file.
        texts: keys of lists and mappings whose text counts as it is written, such as class names.

    Raises:
        UserError: if it cannot be read or is not YAML.
    """
    if is_device_or_pipe(path):
        raise UserError(f"{path}: expected a YAML file, found a device or pipe")
    try:
        with path.open("rb") as file:
            return parse_yaml(file.read(LARGEST_FILE + 1), texts=texts)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except YamlFault as error:
        raise UserError(f"{path}: {error}") from error


def validate(schema: type[Model], value: Any, *, source: str | Path) -> Model:
    """Checks ``value`` against ``schema``.

    Raises:
        UserError: one line listing every fault with its key path and, for an unknown key, the closest valid one.
    """
    if not isinstance(value, dict):
        raise UserError(f"{source}: expected a mapping of keys to values, found {type(value).__name__}")
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            key = ".".join(map(str, fault["loc"]))
            if fault["type"] == "extra_forbidden":
                hint = suggest(str(fault["loc"][-1]), schema.model_fields, taken=value)
                faults.append(f"{key:.40}: unknown key{hint}")
            elif fault["type"] == "missing":
                faults.append(f"{key}: missing")
            else:
                message = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
                faults.append(f"{key}: expected {message}, found {fault['input']!r:.80}")
        raise UserError(f"{source}: {'; '.join(faults)}") from error


def check_options(options: type[Options], values: Mapping[str, Any], *, source: str | Path) -> None:
    """Checks that values are of the types that a command's options have.

    Raises:
        UserError: naming the first that is not, or is no option.
    """
    known = {field.name: field for field in fields(options)}
    types = get_type_hints(options)
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{source}: unknown option {key!r:.40}{suggest(str(key), known, taken=values)}")
        try:
            TypeAdapter(types[key]).validate_python(value, strict=True)
        except ValidationError:
            raise UserError(f"{source}: {key}: expected {known[key].type}, found {shown(value):.80}") from None


Share = Annotated[float, Field(ge=0, le=1)]
#: No number of a recipe is larger by intent, and larger ones overflow where they are multiplied.
_LARGEST = 1e6
Positive = Annotated[float, Field(gt=0, le=_LARGEST)]
NotNegative = Annotated[float, Field(ge=0, le=_LARGEST)]
#: A YOLOv5 key whose feature is not offered: accepted while it is off, so that YOLOv5's files load unchanged.
Off = Annotated[float, Field(ge=0, le=0)]


class Recipe(BaseModel):
    """Keys of a recipe, checked. A recipe file holds the keys of several such classes, side by side.

    Attributes:
        ignored: Keys that YOLOv5's files have and nothing here reads, and why: said where one is set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    ignored: ClassVar[dict[str, str]] = {}


class Hyp(Recipe):
    """What every training has, by YOLOv5's names; the defaults are its ``scratch-low`` recipe.

    What a kind of head adds stands next to its loss.
    """

    ignored: ClassVar = {"copy_paste": "it moves polygons; boxes stay as they are, in YOLOv5 too"}

    optimizer: Literal["SGD", "Adam", "AdamW"] = "SGD"
    lr0: Positive = 0.01
    lrf: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.937
    weight_decay: NotNegative = 0.0005
    warmup_epochs: Annotated[float, Field(ge=0, le=1e6)] = 3.0
    warmup_share: Share = 1.0  # the warm-up takes at most this share of the run
    warmup_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.8
    warmup_bias_lr: NotNegative = 0.1
    nbs: Annotated[int, Field(ge=1, le=_LARGEST)] = (
        64  # nominal batch size: smaller batches accumulate gradients up to it
    )
    bn_momentum: Annotated[float, Field(gt=0, le=1)] | None = None  # of running statistics; None: what each block says
    ema_window: Share = 0.0  # share of the run's optimizer steps that the average spans; 0: YOLOv5's fixed constants
    close_mosaic: Share = 0.0  # share of the epochs, the last ones, without mosaic and mixup
    hsv_h: Share = 0.015
    hsv_s: Share = 0.7
    hsv_v: Share = 0.4
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    translate: Share = 0.1
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.5
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    perspective: Annotated[float, Field(ge=0, le=0.001)] = 0.0
    flipud: Share = 0.0
    fliplr: Share = 0.5
    mosaic: Share = 1.0
    mixup: Share = 0.0
    copy_paste: Share = 0.0
