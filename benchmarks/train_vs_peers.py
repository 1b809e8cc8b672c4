"""yolorep beside ultralytics (extra ``bench``): trained from scratch on the same data, scored by the same evaluator.

Every model is trained with its program's defaults, at the same image size, batch, epochs and threads, with images
cached in RAM, in a process of its own; the best checkpoint's boxes (confidence 0.001, NMS IoU 0.7, 300 an image, each
image in its own rectangle) are scored by yolorep's evaluator, which is pycocotools, on the same images. A finished run
is one JSON file in the output folder: the same command goes on where it was interrupted. AP may come from several
sittings; wall times are shown of one sitting only, which trained all the models asked for, and so are latencies.
Ultralytics is run as a black box, on a copy of the data set; yours is only read.

    python benchmarks/train_vs_peers.py --data data/shapes.yaml --imgsz 320 --epochs 40 --seeds 0 1 --latency
    python benchmarks/train_vs_peers.py --data data/shapes.yaml --imgsz 320 --epochs 40 --seeds 0 1 --only report
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peers.command import add_setting, run
from peers.latency import Latency, measure, openvino_precision
from peers.machine import machine, now, versions
from peers.ours import Yolorep
from peers.plots import plot_latency, plot_wall_time
from peers.process import ProgramFailed
from peers.program import Program
from peers.report import class_table, make_rows, markdown_table
from peers.runs import load_splits, train_and_score
from peers.store import Key, Record, Store, complete_sitting, network_label
from peers.theirs import Ultralytics
from peers.view import copy_data

from yolorep.config import lasting_name
from yolorep.data.annotations import Annotations
from yolorep.errors import UserError
from yolorep.files import write_text


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, measures, reports. Returns the exit code."""
    args = parse(argv)
    return run(lambda: Benchmark(args).run())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", nargs="*", default=["cfg/yolorep/n.yaml"], help="model YAMLs of this repository")
    parser.add_argument(
        "--models", nargs="*", default=["yolov8n.yaml", "yolo11n.yaml", "yolo26n.yaml"], help="those of ultralytics"
    )
    add_setting(parser, epochs=40, seeds=(0, 1), output="runs/benchmark")
    parser.add_argument("--hyp", default="", help="hyperparameter YAML of our models (default: the program's own)")
    parser.add_argument("--latency", action="store_true", help="measure the deployed files as well")
    parser.add_argument("--latency-imgsz", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--warmup", type=int, default=10, help="turns before the latency counts")
    parser.add_argument("--repetitions", type=int, default=100, help="turns of the latency")
    parser.add_argument("--only", choices=("train", "latency", "report"), help="do no more than this")
    parser.add_argument("--redo", action="store_true", help="train again what is stored, for example an edited model")
    return parser.parse_args(argv)


class Benchmark:
    """One invocation.

    Args:
        args: the command line.

    Raises:
        UserError: if a file or a package is missing.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.output: Path = args.output.resolve()
        self.data = lasting_name(args.data, "data")
        self.store = Store(self.output / "results")
        self.sitting = now()
        self.splits: dict[str, Annotations] = {}
        copy = self.output / "data" / self._data_name()
        self.programs: dict[str, Program] = {
            "yolorep": Yolorep(args.threads, args.workers),
            "ultralytics": Ultralytics(args.threads, args.workers, copy / "data.yaml", self.output / "settings"),
        }
        #: (program, model YAML), peers first.
        self.models = [
            ("ultralytics", str(Path(model).resolve()) if Path(model).is_file() else model) for model in args.models
        ]
        self.models += [("yolorep", lasting_name(model, "model")) for model in args.ours]
        if not self.models:
            raise UserError("--ours, --models: expected at least one model, found none")
        if args.only != "report":
            self._require_packages()

    def run(self) -> int:
        """Does what was asked for. Returns the exit code: 1 if a run failed."""
        args = self.args
        failed = self.train() if args.only in (None, "train") else []
        if args.only == "latency" or (args.latency and args.only is None):
            self.measure_latency()
        if args.only in (None, "report"):
            self.report()
        for line in failed:
            print(f"failed: {line}", file=sys.stderr)
        return 1 if failed else 0

    def train(self) -> list[str]:
        """Trains and scores what is not stored. Returns a line for each run that failed."""
        args = self.args
        # Seeds outside: a sitting that is interrupted has trained every model as often as it could.
        keys = [self._key(program, model, seed) for seed in args.seeds for program, model in self.models]
        missing = [key for key in keys if args.redo or self.store.find(key) is None]
        print(f"{len(keys)} runs, {len(keys) - len(missing)} of them stored in {self.store.folder}", flush=True)
        if missing:
            self._load_data(for_peers=any(key.program == "ultralytics" for key in missing))
        failed = []
        for number, key in enumerate(missing, start=1):
            print(f"{number}/{len(missing)} {key.label}, seed {key.seed}: {key.epochs} epochs", flush=True)
            try:
                record = train_and_score(
                    self.programs[key.program],
                    key,
                    folder=self.output / "runs" / key.slug,
                    splits=self.splits,
                    sitting=self.sitting,
                    threads=args.threads,
                    redo=args.redo,
                )
                self.store.save(record)
            except ProgramFailed as error:
                failed.append(f"{key.label}, seed {key.seed}: {error}")
                print(f"  failed: {error}", flush=True)
        return failed

    def measure_latency(self) -> None:
        """Exports every model and times the files, all of them in this one go."""
        args = self.args
        folder = self.output / "deployed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        weights: dict[tuple[str, str], Path | None] = {model: self._trained_weights(*model) for model in self.models}
        origin = f"trained on {args.data}"
        if None in weights.values():
            # Speed depends on the number of classes, so all or none.
            weights = dict.fromkeys(weights)
            origin = "random, classes as in the model YAMLs, for not every model has been trained"
        print(f"latency: weights {origin}", flush=True)
        found: list[Latency] = []
        for imgsz in args.latency_imgsz:
            files: dict[tuple[str, str], Path] = {}
            for (program, model), checkpoint in weights.items():
                network = network_label(model)
                print(f"  exporting {network} for {imgsz} px", flush=True)
                name = f"{network.replace('/', '-')}-{imgsz}"
                exported = self.programs[program].export(model, checkpoint, imgsz=imgsz, folder=folder, name=name)
                for variant, file in exported.items():
                    files[program, ", ".join(filter(None, (network, variant)))] = file
            found += measure(files, imgsz=imgsz, threads=args.threads, warmup=args.warmup, repetitions=args.repetitions)
        content = {
            "date": now(),
            "machine": machine(),
            "versions": versions(),
            "threads": args.threads,
            "openvino_precision": openvino_precision(),
            "weights": origin,
            "measured": [asdict(entry) for entry in found],
        }
        write_text(self._latency_file(), json.dumps(content, indent=2))

    def report(self) -> None:
        """Writes table, plots and JSON of everything stored for this data set, image size and batch."""
        args = self.args
        records = self.store.all(data=self.data, imgsz=args.imgsz, batch_size=args.batch_size)
        path = self._latency_file()
        latency: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"measured": []}
        if not records and not latency["measured"]:
            raise UserError(f"{self.output}: expected runs of this setting, found none; leave --only out")
        keys = [self._key(program, model, args.seeds[0]) for program, model in self.models]
        sitting = complete_sitting(records, [(key.label, key.epochs) for key in keys])
        rows = make_rows(records, [Latency(**entry) for entry in latency["measured"]], sitting=sitting)
        splits = [split for split in ("val", "test") if any(row.values(split, "AP") for row in rows)]
        text = "\n\n".join(
            [
                f"# {Path(args.data).stem}, {args.imgsz} px, batch {args.batch_size}",
                markdown_table(rows),
                *self._notes(records, latency, sitting),
                *(f"AP of each class, {split}:\n\n{class_table(rows, split)}" for split in splits),
            ]
        )
        content = {
            "setting": {"data": self.data, "imgsz": args.imgsz, "batch_size": args.batch_size},
            "wall_time_sitting": sitting,
            "runs": [asdict(record) for record in records],
            "latency": latency,
        }
        name = self._setting_name()
        write_text(self.output / f"{name}.md", text + "\n")
        write_text(self.output / f"{name}.json", json.dumps(content, indent=2))
        pixels = args.imgsz if args.imgsz in args.latency_imgsz else args.latency_imgsz[0]
        for split in splits:
            plot_wall_time(rows, self.output / f"{name}_time_{split}.png", split=split)
            plot_latency(rows, self.output / f"{name}_latency_{split}.png", split=split, imgsz=pixels)
        print(f"\n{text}\n\nwritten: {self.output / name}.md, .json and .png", flush=True)

    def _load_data(self, *, for_peers: bool) -> None:
        self.splits = load_splits(self.data)
        if for_peers:
            folder = self.output / "data" / self._data_name()
            print(f"copying {sum(map(len, self.splits.values()))} images to {folder}", flush=True)
            copy_data(self.splits, folder)

    def _key(self, program: str, model: str, seed: int) -> Key:
        args = self.args
        hyp = lasting_name(args.hyp, "hyp") if args.hyp and program == "yolorep" else ""
        return Key(
            program=program,
            model=model,
            data=self.data,
            imgsz=args.imgsz,
            batch_size=args.batch_size,
            epochs=args.epochs,
            seed=seed,
            hyp=hyp,
        )

    def _trained_weights(self, program: str, model: str) -> Path | None:
        records = self.store.all(data=self.data, imgsz=self.args.imgsz, batch_size=self.args.batch_size)
        found = [r for r in records if (r.key.program, r.key.model) == (program, model) and Path(r.weights).is_file()]
        return Path(max(found, key=lambda record: record.date).weights) if found else None

    def _require_packages(self) -> None:
        args = self.args
        needed = ["ultralytics"] if args.models else []
        if args.latency or args.only == "latency":
            needed += ["openvino", "onnxruntime", "onnx", *(["onnxslim"] if args.models else [])]
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"{', '.join(missing)}: not installed; pip install 'yolorep[bench]'")

    def _notes(self, records: list[Record], latency: dict[str, Any], sitting: str | None) -> list[str]:
        notes = ["AP by pycocotools on the same images: mean ± half the range over the seeds."]
        used: dict[str, set[str]] = {}
        for entry in [*({"versions": r.versions} for r in records), latency]:
            for package, version in entry.get("versions", {}).items():
                used.setdefault(package, set()).add(version)
        if sitting:
            notes.append(f"Wall time of the whole training process, of the sitting of {sitting} alone.")
        elif records:
            notes.append("No wall times: no single sitting has trained all of these models.")
        if latency["measured"]:
            entry = latency["measured"][0]
            notes.append(
                f"Latency: batch 1, {latency['threads']} threads, without NMS, the models taking turns, median of "
                f"{entry['repetitions']} ± half the distance of the quartiles, {latency['date']}; weights "
                f"{latency['weights']}; OpenVINO computes in {latency['openvino_precision']}."
            )
        where = sorted(
            {record.machine for record in records} | ({latency["machine"]} if "machine" in latency else set())
        )
        packages = ", ".join(f"{package} {' and '.join(sorted(found))}" for package, found in used.items())
        return [*notes, f"{'; '.join(where)}; {packages}."]

    def _data_name(self) -> str:
        key = Key(program="", model="", data=self.data, imgsz=0, batch_size=0, epochs=0, seed=0)
        return f"{Path(self.data).stem}-{key.slug.rpartition('_')[2]}"

    def _setting_name(self) -> str:
        return f"{self._data_name()}_{self.args.imgsz}px_b{self.args.batch_size}"

    def _latency_file(self) -> Path:
        return self.output / "latency" / f"{self._data_name()}.json"


if __name__ == "__main__":
    sys.exit(main())
