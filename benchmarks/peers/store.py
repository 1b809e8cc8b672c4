"""Finished runs, one JSON file each, and the question which wall times may stand side by side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from yolorep.errors import UserError
from yolorep.files import write_text


@dataclass(frozen=True, kw_only=True)
class Key:
    """What makes a run the same run.

    Attributes:
        program: "yolorep" or "ultralytics".
        model: model YAML: a packaged one by its name, another by its absolute path.
        data: dataset YAML, likewise.
        imgsz: long side in pixels.
        batch_size: images a step.
        epochs: passes over the training set.
        seed: of everything random.
        hyp: hyperparameter YAML; empty for the program's own defaults.
    """

    program: str
    model: str
    data: str
    imgsz: int
    batch_size: int
    epochs: int
    seed: int
    hyp: str = ""

    @property
    def network(self) -> str:
        """The model as tables show it: ``yolorep/n``, ``yolov8n``."""
        return network_label(self.model)

    @property
    def label(self) -> str:
        """The model, with the hyp file if that is not the default."""
        return f"{self.network} ({Path(self.hyp).stem})" if self.hyp else self.network

    @property
    def slug(self) -> str:
        """A file name: readable, and different for different keys."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        model = f"{Path(self.model).parent.name}-{Path(self.model).stem}".lstrip("-")
        return f"{model}_{Path(self.data).stem}_{self.imgsz}px_e{self.epochs}_s{self.seed}_{digest}"


def network_label(model: str) -> str:
    """A model YAML as tables show it: without ``cfg/`` and ending."""
    path = Path(model).with_suffix("")
    return path.name if path.is_absolute() else path.as_posix().removeprefix("cfg/")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished run.

    Attributes:
        key: which.
        sitting: the invocation that trained it; later ones sort behind.
        date: when training ended, ISO 8601.
        wall_seconds: from the start of the training process to its end.
        threads: of the training process.
        params: of the network as trained.
        params_deployed: of the network as deployed.
        weights: its checkpoint.
        scores: split -> the twelve COCO numbers and ``per_class``.
        scores_nms_free: the same of the branch that needs no NMS, where there is one beside the other.
        own: split -> what the program itself reports, for comparison.
        machine, versions: where and with what.
    """

    key: Key
    sitting: str
    date: str
    wall_seconds: float
    threads: int
    params: int
    params_deployed: int
    weights: str
    scores: dict[str, dict[str, Any]]
    scores_nms_free: dict[str, dict[str, Any]] = field(default_factory=dict)
    own: dict[str, dict[str, float]] = field(default_factory=dict)
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)


class Store:
    """A folder of records.

    Args:
        folder: where; created when the first record is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: Key) -> Path:
        """Where the record of a run is."""
        return self.folder / f"{key.slug}.json"

    def find(self, key: Key) -> Record | None:
        """The record of a run, or None if it has not been finished."""
        path = self.path(key)
        return _read(path) if path.is_file() else None

    def save(self, record: Record) -> None:
        """Keeps a record, in place of an older one of the same run."""
        write_text(self.path(record.key), json.dumps(asdict(record), indent=2))

    def all(self, *, data: str, imgsz: int, batch_size: int) -> list[Record]:
        """Every record of this setting, by label, epochs and seed.

        Raises:
            UserError: if a file is no record.
        """
        records = [_read(path) for path in sorted(self.folder.glob("*.json"))]
        wanted = (data, imgsz, batch_size)
        records = [r for r in records if (r.key.data, r.key.imgsz, r.key.batch_size) == wanted]
        return sorted(records, key=lambda r: (r.key.program, r.key.label, r.key.epochs, r.key.seed))


def _read(path: Path) -> Record:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Record(**{**content, "key": Key(**content["key"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: expected the record of a run, found other content ({error}); remove it") from error


def complete_sitting(records: Iterable[Record], wanted: Sequence[tuple[str, int]]) -> str | None:
    """The newest sitting that trained every wanted (label, epochs) at least once: only its wall times compare.

    Args:
        records: of one setting.
        wanted: what has to be in the sitting.

    Returns:
        The sitting, or None if no sitting has them all.
    """
    trained: dict[str, set[tuple[str, int]]] = {}
    for record in records:
        trained.setdefault(record.sitting, set()).add((record.key.label, record.key.epochs))
    return max((sitting for sitting, found in trained.items() if found.issuperset(wanted)), default=None)
