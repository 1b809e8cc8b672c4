"""Runs ultralytics (AGPL-3.0) by its public Python interface; started by ``theirs.py``, never imported.

python -m peers.black_box train|val|export REQUEST.json ANSWER.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from ultralytics import YOLO, settings


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Trains from a model YAML. Answers with the threads that the epochs ended with."""
    model = YOLO(request["model"])
    used: set[int] = set()

    def set_threads(_: object) -> None:
        torch.set_num_threads(request["threads"])  # it would leave a core unused; ours uses all it is given

    for event in ("on_train_start", "on_train_epoch_start", "on_val_start"):
        model.add_callback(event, set_threads)
    model.add_callback("on_fit_epoch_end", lambda _: used.add(torch.get_num_threads()))
    model.train(**request["train"])
    return {"threads": sorted(used)}


def val(request: dict[str, Any]) -> dict[str, Any]:
    """Writes the boxes it finds on each split. Answers with its own scores and the number of parameters."""
    own = {}
    for split in request["splits"]:
        metrics = YOLO(request["weights"]).val(split=split, name=f"val-{split}", **request["val"])
        own[split] = {"AP": float(metrics.box.map), "AP50": float(metrics.box.map50)}
    model = YOLO(request["weights"])
    params = _count(model)
    model.fuse()
    return {"own": own, "params": params, "params_deployed": _count(model)}


def export(request: dict[str, Any]) -> dict[str, Any]:
    """Exports. Answers with the file."""
    return {"file": str(YOLO(request["model"]).export(**request["export"]))}


def _count(model: YOLO) -> int:
    return sum(parameter.numel() for parameter in model.model.parameters())


def main() -> None:
    """Reads the request, does it, writes the answer."""
    task, request, answer = sys.argv[1:]
    settings.update({"sync": False})  # no telemetry
    done = {"train": train, "val": val, "export": export}[task](json.loads(Path(request).read_text()))
    Path(answer).write_text(json.dumps(done))


if __name__ == "__main__":
    main()
