"""What every part of the recipe is worth: the default, and the default with one thing changed.

Every run starts from scratch with the same seed, image size, batch and epochs; the weights after the last epoch are
scored as ``train_vs_peers.py`` does, so that no luck of a best epoch comes in. Finished runs are kept in the output
folder, and the same command goes on.

    python benchmarks/ablation.py --data data/shapes.yaml --imgsz 320 --epochs 20
    python benchmarks/ablation.py --data data/shapes.yaml --imgsz 320 --epochs 20 --seeds 0 1 --only default
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from peers.command import add_setting, run
from peers.machine import machine, now, versions
from peers.ours import Yolorep
from peers.process import ProgramFailed
from peers.report import DASH, spread
from peers.runs import SCORED, load_splits, train_and_score
from peers.store import Key, Record, Store

from yolorep.config import lasting_name
from yolorep.errors import UserError, suggest
from yolorep.files import write_text
from yolorep.models.model_file import load_config
from yolorep.training.recipe import load_hyp


@dataclass(frozen=True)
class Change:
    """One thing that is different from the default.

    Attributes:
        hyp: keys of the recipe.
        model: keys of the model file.
        head: arguments of the head's row.
        options: of training, as on the command line.
    """

    hyp: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    head: Sequence[Any] = ()
    options: Sequence[str] = ()


#: Name -> what is changed.
CHANGES: dict[str, Change] = {
    "default": Change(),
    "a step for 64 images": Change(hyp={"nbs": 64}),
    "SGD": Change(hyp={"optimizer": "SGD", "lr0": 0.01, "momentum": 0.937}),
    "YOLOv5's warm-up": Change(hyp={"warmup_share": 1.0}),
    "cosine": Change(options=("--cos-lr",)),
    "YOLOv5's BatchNorm momentum": Change(hyp={"bn_momentum": None}),
    "YOLOv5's EMA": Change(hyp={"ema_window": 0.0}),
    "mosaic to the end": Change(hyp={"close_mosaic": 0.0}),
    "no mosaic": Change(hyp={"mosaic": 0.0}),
    "k = 0, plain convolutions": Change(model={"branches": 0}),
    "k = 4": Change(model={"branches": 4}),
    "no DFL": Change(head=("nc", 1)),
    "one-to-one branch beside": Change(head=("nc", 16, True)),
    "float32": Change(options=("--precision", "fp32")),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is missing, writes the table. Returns the exit code."""
    args = parse(argv)
    return run(lambda: ablate(args))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", default="cfg/yolorep/n.yaml", help="model YAML with an anchor-free head")
    parser.add_argument("--hyp", default="cfg/hyp/yolorep.yaml", help="the recipe that is changed")
    add_setting(parser, epochs=20, seeds=(0,), output="runs/ablation")
    parser.add_argument("--only", nargs="+", help=f"of these: {', '.join(CHANGES)}")
    return parser.parse_args(argv)


def ablate(args: argparse.Namespace) -> int:
    """Trains what is missing, writes the table. Returns the exit code: 1 if a run failed."""
    for name in args.only or ():
        if name not in CHANGES:
            raise UserError(f"--only: expected a change, found {name!r}{suggest(name, CHANGES)}")
    output = args.output.resolve()
    data = lasting_name(args.data, "data")
    store = Store(output / "results")
    sitting = now()
    splits = load_splits(data)
    files = {name: write_files(name, args, folder=output / "changes") for name in CHANGES}
    failed = 0
    for seed in args.seeds:
        for name in args.only or CHANGES:
            model, recipe = files[name]
            key = Key(
                program="yolorep",
                model=model,
                hyp=recipe,
                data=data,
                imgsz=args.imgsz,
                batch_size=args.batch_size,
                epochs=args.epochs,
                seed=seed,
            )
            if store.find(key) is not None:
                continue
            print(f"{name}, seed {seed}", flush=True)
            program = Yolorep(args.threads, args.workers, ("--noval", *CHANGES[name].options))
            folder = output / "runs" / key.slug
            try:
                store.save(
                    train_and_score(program, key, folder=folder, splits=splits, sitting=sitting, threads=args.threads)
                )
            except ProgramFailed as error:
                failed = 1
                print(f"  failed: {error}", flush=True)
    found = store.all(data=data, imgsz=args.imgsz, batch_size=args.batch_size)
    found = [record for record in found if record.key.epochs == args.epochs]
    records = {name: [r for r in found if (r.key.model, r.key.hyp) == files[name]] for name in CHANGES}
    title = (
        f"{Path(args.cfg).stem} on {Path(data).stem}, {args.imgsz} px, batch {args.batch_size}, {args.epochs} epochs"
    )
    packages = ", ".join(f"{package} {version}" for package, version in versions().items())
    text = f"# {title}\n\n{table(records)}\n\n{machine()}; {packages}.\n"
    write_text(output / f"{Path(data).stem}.md", text)
    print(f"\n{text}\nwritten: {output / Path(data).stem}.md")
    return failed


def write_files(name: str, args: argparse.Namespace, *, folder: Path) -> tuple[str, str]:
    """Writes a change's model file and recipe, named by the change and by all that it trains with.

    Args:
        name: the change.
        args: with the model and the recipe that are changed.
        folder: where to.

    Returns:
        The two paths. They stand for the run: another model, recipe or change has others.
    """
    change = CHANGES[name]
    config = load_config(args.cfg).to_dict() | dict(change.model)
    if change.head:
        *rows, (source, repeats, module, _) = config["head"]
        config["head"] = [*rows, [source, repeats, module, list(change.head)]]
    hyp = load_hyp(args.hyp).model_dump() | dict(change.hyp)
    model, recipe = (yaml.safe_dump(content, sort_keys=False) for content in (config, hyp))
    digest = hashlib.sha256("\n".join((model, recipe, *change.options)).encode()).hexdigest()[:8]
    stem = "_".join(re.findall(r"\w+", name))
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / f"{stem}-{digest}-model.yaml", folder / f"{stem}-{digest}-hyp.yaml")
    for path, text in zip(paths, (model, recipe), strict=True):
        write_text(path, text)
    return str(paths[0]), str(paths[1])


def table(runs: Mapping[str, Sequence[Record]]) -> str:
    """The changes that have runs as Markdown: means over the seeds, and the difference to the default's."""
    splits = [split for split in SCORED if any(split in run.scores for found in runs.values() for run in found)]
    lines = [["change", "seeds", *(f"AP {split}" for split in splits), "difference", "trained M", "fused M"]]
    lines.append(["---"] * len(lines[0]))
    for name, found in runs.items():
        if not found:
            continue
        cells = [name, str(len(found))]
        cells += [spread([record.scores[split]["AP"] for record in found], 3) for split in splits]
        cells.append(_difference(found, runs["default"], splits) if name != "default" else DASH)
        cells += [f"{count / 1e6:.2f}" for count in (found[0].params, found[0].params_deployed)]
        lines.append(cells)
        if found[0].scores_nms_free:
            scores = [spread([record.scores_nms_free[split]["AP"] for record in found], 3) for split in splits]
            lines.append([f"{name}, NMS-free", str(len(found)), *scores, *[DASH] * 3])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _difference(records: Sequence[Record], defaults: Sequence[Record], splits: Sequence[str]) -> str:
    """Mean over the splits and the seeds that both have."""
    by_seed = {record.key.seed: record for record in defaults}
    pairs = [(record, by_seed[record.key.seed]) for record in records if record.key.seed in by_seed]
    if not pairs:
        return DASH
    return f"{fmean(r.scores[split]['AP'] - d.scores[split]['AP'] for r, d in pairs for split in splits):+.3f}"


if __name__ == "__main__":
    sys.exit(main())
