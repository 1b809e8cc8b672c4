"""ultralytics, through ``black_box.py``, on a copy of the data set."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolorep.data.annotations import Annotations

from .process import environment, run_logged
from .program import CONFIDENCE, IOU, MAX_DETECTIONS, Evaluated, Program, Trained, score
from .store import Key
from .view import read_boxes


@dataclass(frozen=True)
class Ultralytics(Program):
    """The peer, a black box: its public interface only, in processes that neither download nor install nor report.

    Args:
        threads: of each process.
        workers: data loading processes.
        data: YAML of the copy.
        settings: folder for what it keeps.
    """

    threads: int
    workers: int
    data: Path
    settings: Path
    name = "ultralytics"

    def train(self, key: Key, folder: Path) -> Trained:
        request = {
            "model": key.model,
            "threads": self.threads,
            "train": {
                "data": str(self.data),
                "imgsz": key.imgsz,
                "batch": key.batch_size,
                "epochs": key.epochs,
                "seed": key.seed,
                "workers": self.workers,
                "cache": "ram",
                "device": "cpu",
                "pretrained": False,
                "plots": False,
                "project": str(folder),
                "name": "train",
                "exist_ok": True,
                "verbose": False,
            },
        }
        seconds, _ = self._ask("train", request, folder, table=folder / "train" / "results.csv")
        return Trained(folder / "train" / "weights" / "best.pt", seconds)

    def evaluate(self, key: Key, weights: Path, folder: Path, splits: Mapping[str, Annotations]) -> Evaluated:
        for split in splits:  # boxes of an earlier evaluation must not be read again
            shutil.rmtree(folder / f"val-{split}", ignore_errors=True)
        request = {
            "weights": str(weights),
            "splits": list(splits),
            "val": {
                "data": str(self.data),
                "imgsz": key.imgsz,
                "batch": 1,  # every image has its own rectangle, as in our evaluation
                "rect": True,
                "conf": CONFIDENCE,
                "iou": IOU,
                "max_det": MAX_DETECTIONS,
                "workers": self.workers,
                "device": "cpu",
                "save_txt": True,
                "save_conf": True,
                "plots": False,
                "project": str(folder),
                "exist_ok": True,
                "verbose": False,
            },
        }
        _, answer = self._ask("val", request, folder)
        scores = {
            split: score(annotations, read_boxes(folder / f"val-{split}" / "labels", annotations))
            for split, annotations in splits.items()
        }
        return Evaluated(scores, answer["params"], answer["params_deployed"], own=answer["own"])

    def export(self, model: str, weights: Path | None, *, imgsz: int, folder: Path, name: str) -> dict[str, Path]:
        source = model
        if weights is not None:
            source = str(folder / f"{name}.pt")  # the file is written beside it
            shutil.copyfile(weights, source)
        request = {"model": source, "export": {"format": "onnx", "imgsz": imgsz, "opset": 18, "device": "cpu"}}
        _, answer = self._ask("export", request, folder, name=name)
        target = folder / f"{name}.onnx"
        (folder / answer["file"]).replace(target)
        return {"": target}

    def _ask(
        self, task: str, request: Mapping[str, Any], folder: Path, *, name: str | None = None, table: Path | None = None
    ) -> tuple[float, dict[str, Any]]:
        files = {kind: folder / f"{name or task}.{kind}" for kind in ("request", "answer", "log")}
        files["request"].write_text(json.dumps(request, indent=2))
        self.settings.mkdir(parents=True, exist_ok=True)
        closed = {"YOLO_CONFIG_DIR": str(self.settings), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        seconds = run_logged(
            [sys.executable, "-m", "peers.black_box", task, str(files["request"]), str(files["answer"])],
            files["log"],
            env=environment(self.threads, closed),
            cwd=folder,  # what it writes without being asked stays there
            table=table,
        )
        answer: dict[str, Any] = json.loads(files["answer"].read_text())
        return seconds, answer
