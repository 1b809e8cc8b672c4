"""yolorep, through its own commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolorep.data.annotations import Annotations
from yolorep.errors import UserError
from yolorep.inference.open import load_model
from yolorep.models.detector import Detector, build_model
from yolorep.nn.reparam import count_parameters, fuse
from yolorep.weights.checkpoint import save_checkpoint

from .process import environment, run_logged
from .program import CONFIDENCE, IOU, MAX_DETECTIONS, Evaluated, Program, Trained
from .store import Key

#: Deployed forms -> flags of the export.
VARIANTS: dict[str, tuple[str, ...]] = {"": (), "NMS-free": ("--nms-free",)}


@dataclass(frozen=True)
class Yolorep(Program):
    """The program of this repository, reading the data set where it is.

    Args:
        threads: of each process.
        workers: data loading processes.
        extra: further options of training, as on the command line.
    """

    threads: int
    workers: int
    extra: Sequence[str] = ()
    name = "yolorep"

    def train(self, key: Key, folder: Path) -> Trained:
        flags = {
            "cfg": key.model,
            "data": key.data,
            "imgsz": key.imgsz,
            "batch-size": key.batch_size,
            "epochs": key.epochs,
            "seed": key.seed,
            **({"hyp": key.hyp} if key.hyp else {}),
            "workers": self.workers,
            "cache": "ram",
            "device": "cpu",
            "project": folder,
            "name": "train",
        }
        seconds = self._run("train", flags, folder / "train.log", self.extra, table=folder / "train" / "results.csv")
        return Trained(folder / "train" / "weights" / "best.pt", seconds)

    def evaluate(self, key: Key, weights: Path, folder: Path, splits: Mapping[str, Annotations]) -> Evaluated:
        model = load_model(weights)
        deployed = fuse(model.for_inference())[1]
        scores = {split: self._val(key, weights, folder, split) for split in splits}
        nms_free = {}
        if _has_nms_free(model):
            nms_free = {split: self._val(key, weights, folder, split, "--nms-free") for split in splits}
        return Evaluated(scores, count_parameters(model), deployed.params_fused, scores_nms_free=nms_free)

    def export(self, model: str, weights: Path | None, *, imgsz: int, folder: Path, name: str) -> dict[str, Path]:
        network = build_model(model) if weights is None else load_model(weights)
        files = {}
        for variant, switches in VARIANTS.items():
            if switches and not _has_nms_free(network):
                continue
            checkpoint = folder / f"{name}{''.join(switches)[1:]}.pt"  # the file is written beside it
            save_checkpoint(checkpoint, network)
            flags = {"weights": checkpoint, "imgsz": imgsz, "include": "onnx", "opset": 18}
            self._run("export", flags, checkpoint.with_suffix(".log"), switches)
            files[variant] = checkpoint.with_suffix(".onnx")
        return files

    def _val(self, key: Key, weights: Path, folder: Path, split: str, *switches: str) -> dict[str, Any]:
        name = "-".join(["val", split, *(switch.strip("-") for switch in switches)])
        flags = {
            "weights": weights,
            "data": key.data,
            "task": split,
            "imgsz": key.imgsz,
            "conf-thres": CONFIDENCE,
            "iou-thres": IOU,
            "max-det": MAX_DETECTIONS,
            "workers": self.workers,
            "device": "cpu",
            "project": folder,
            "name": name,
        }
        self._run("val", flags, folder / f"{name}.log", ["--exist-ok", *switches])
        metrics = json.loads((folder / name / "metrics.json").read_text(encoding="utf-8"))
        return {metric: value for metric, value in metrics.items() if metric != "speed"}

    def _run(
        self,
        command: str,
        flags: Mapping[str, object],
        log: Path,
        switches: Sequence[str] = (),
        *,
        table: Path | None = None,
    ) -> float:
        arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        return run_logged(
            [sys.executable, "-m", "yolorep", command, *arguments, *switches],
            log,
            env=environment(self.threads),
            table=table,
        )


def _has_nms_free(model: Detector) -> bool:
    try:
        model.for_inference(nms_free=True)
    except UserError:
        return False
    return True
