"""Training images per second: yolorep's YOLOv5n beside ultralytics' (extra ``bench``), in one sitting.

Both train their own ``yolov5n`` from scratch on a copy of the same data, at the same size and batch, with images cached
in RAM. The programs take turns, each in a process of its own; the first epoch of every turn is not counted, and
neither is evaluation. Both use all cores. Ultralytics is run as a black box.

    python benchmarks/train_speed.py --data data/shapes.yaml --imgsz 320 --batch-size 16
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

PROGRAMS = ("yolorep", "ultralytics")


def main() -> int:
    """Runs the turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/shapes.yaml", help="dataset YAML with YOLO labels")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3, help="a turn, the first of them not counted")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--turn", choices=PROGRAMS, help=argparse.SUPPRESS)  # what the processes are started with
    args = parser.parse_args()
    if args.turn:
        seconds, images = {"yolorep": run_yolorep, "ultralytics": run_ultralytics}[args.turn](args)
        print(json.dumps([images / value for value in seconds[1:]]))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        args.data = str(copy_data(args.data, Path(folder)))
        rates: dict[str, list[float]] = {program: [] for program in PROGRAMS}
        for turn in range(args.turns):
            for program in PROGRAMS:
                rates[program] += measure(program, args, Path(folder))
                print(f"turn {turn + 1}: {program} {rates[program][-1]:.1f} images/s", flush=True)
    ours, theirs = (statistics.median(rates[program]) for program in PROGRAMS)
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {sys.version.split()[0]}")
    print("| program | images/s (median) | min | max |\n|---|---|---|---|")
    for program in PROGRAMS:
        values = rates[program]
        print(f"| {program} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} |")
    print(f"ratio yolorep / ultralytics: {ours / theirs:.2f}")
    return 0


def measure(program: str, args: argparse.Namespace, folder: Path) -> list[float]:
    """Images per second of each counted epoch of one turn."""
    names = ("data", "imgsz", "batch_size", "workers", "epochs")
    flags = [part for name in names for part in (f"--{name.replace('_', '-')}", str(getattr(args, name)))]
    environment = os.environ | {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true"}
    done = subprocess.run(
        [sys.executable, __file__, "--turn", program, *flags],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    if done.returncode:
        raise SystemExit(f"{program} failed:\n{done.stdout}\n{done.stderr}")
    rates: list[float] = json.loads(done.stdout.splitlines()[-1])
    return rates


def copy_data(name: str, folder: Path) -> Path:
    """Copies train and val images and labels, for the peer writes caches beside them."""
    from yolorep.data.catalog import load_data_config
    from yolorep.data.scan import load_annotations

    config = load_data_config(name)
    for split in ("train", "val"):
        annotations = load_annotations(config, split)
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(len(annotations)):
            source = Path(annotations.paths[index])
            shutil.copy(source, folder / "images" / split / source.name)
            rows = annotations.labels(index).tolist()
            lines = [" ".join([str(int(row[0])), *(f"{value:.6f}" for value in row[1:])]) for row in rows]
            (folder / "labels" / split / f"{source.stem}.txt").write_text("\n".join(lines) + "\n")
    path = folder / "data.yaml"
    content = {"path": str(folder), "train": "images/train", "val": "images/val", "names": list(config.names)}
    path.write_text(yaml.safe_dump(content))
    return path


def run_yolorep(args: argparse.Namespace) -> tuple[list[float], int]:
    """Seconds of each training epoch, and the images in one."""
    from yolorep.options import TrainOptions
    from yolorep.training.inputs import new_run
    from yolorep.training.run import build_trainer

    run = new_run(
        TrainOptions(
            cfg="cfg/yolov5/n.yaml",
            data=args.data,
            epochs=args.epochs,
            batch_size=args.batch_size,
            imgsz=args.imgsz,
            workers=args.workers,
            cache="ram",
        )
    )
    trainer = build_trainer(run)
    seconds = []
    for epoch in range(args.epochs):
        start = time.perf_counter()
        trainer.train_epoch(epoch)
        seconds.append(time.perf_counter() - start)
    return seconds, len(run.train_set)


def run_ultralytics(args: argparse.Namespace) -> tuple[list[float], int]:
    """The same of the peer, timed by its own callbacks."""
    import torch
    from ultralytics import YOLO, settings

    settings.update({"sync": False})  # no telemetry
    seconds: list[float] = []
    images = 0

    def start(trainer: object) -> None:
        nonlocal images
        images = len(trainer.train_loader.dataset)  # type: ignore[attr-defined]
        torch.set_num_threads(os.cpu_count() or 1)  # it would leave a core unused; ours uses all of them
        seconds.append(-time.perf_counter())

    def end(trainer: object) -> None:
        seconds[-1] += time.perf_counter()

    model = YOLO("yolov5n.yaml")
    model.add_callback("on_train_epoch_start", start)
    model.add_callback("on_train_epoch_end", end)
    model.train(
        data=args.data,
        epochs=args.epochs,
        imgsz=args.imgsz,
        batch=args.batch_size,
        workers=args.workers,
        cache="ram",
        pretrained=False,
        val=False,
        plots=False,
        device="cpu",
        project=".",
        verbose=False,
    )
    return seconds, images


if __name__ == "__main__":
    sys.exit(main())
