"""Data, recipe and model files and stored options that nobody meant: read, or refused in one line at little cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.data.toy import write_coco, write_yolo
from tests.hostile.conftest import Hostile
from tests.hostile.harness import Case
from tests.hostile.mutate import HOSTILE_VALUES, mutate_document, rng
from yolorep.config import load_yaml, resources_dir
from yolorep.data.catalog import load_data_config
from yolorep.data.scan import load_annotations
from yolorep.training.inputs import read_options
from yolorep.training.recipe import load_hyp

#: Python writes numbers of no more digits.
VALUES = [value for value in HOSTILE_VALUES if not (isinstance(value, int) and value > 10**1000)]
DATA = """\
# Two kinds of animals
path: .
train: images/train
val: [images/train, list.txt]
test: {images: images, annotations: instances.json}
names: &names
  0: cat
  1: "dog"
  2: 0402
nc: 3
kpt_shape: [4, 2]
is_coco: false
roboflow: {workspace: a, version: 3, license: CC BY 4.0}
download: [{url: "file:///nowhere", sha256: DIGEST, to: x.zip}]
""".replace("DIGEST", "a" * 64)
RENDERED = "generate: {train: 2, val: 1, image_size: 64, objects: 3, smallest: 0.1, seed: 1}\ntrain: a\nval: a\nnc: 5\n"


def read_data(path: Path) -> None:
    config = load_data_config(path)
    if not config.shapes:
        for split in config.splits:
            load_annotations(config, split)


READERS: dict[str, Callable[[Path], object]] = {
    "data": read_data,
    "rendered": load_data_config,
    "hyp": load_hyp,
    "args": read_options,
    "model": load_yaml,
}


def originals() -> dict[str, str]:
    packaged = {"hyp": "cfg/hyp/yolorep.yaml", "model": "cfg/yolov5/n.yaml"}
    texts = {kind: (resources_dir() / name).read_text() for kind, name in packaged.items()}
    args = "data: data.yaml\nepochs: 3\nweights: null\ncfg: x\nimgsz: 64\ncache: ram\ncos_lr: false\nlog: [csv]\n"
    return {"data": DATA, "rendered": RENDERED, "args": args, **texts}


def mutated(folder: Path, kind: str, seed: int) -> Case:
    random, text = rng(f"yaml {kind}", seed), originals()[kind]
    content = mutate_document(
        text,
        random,
        seed,
        parse=yaml.safe_load,
        write=lambda tree: yaml.dump(tree, sort_keys=random.random() < 0.5),
        values=VALUES,
    )
    path = folder / f"{kind}.yaml"

    def write() -> None:
        path.write_bytes(content)

    return Case(f"yaml {kind} {seed}", lambda: READERS[kind](path), write)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "cache"))
    write_coco(tmp_path)
    write_yolo(tmp_path, count=2)
    (tmp_path / "list.txt").write_text("images/train/001.png\n")
    return tmp_path


@pytest.mark.parametrize("kind", READERS)
def test_they_are_good_before(kind: str, folder: Path) -> None:
    path = folder / "good.yaml"
    path.write_text(originals()[kind])
    READERS[kind](path)


def test_mutated_files(folder: Path, hostile: Hostile) -> None:
    hostile(mutated(folder, kind, seed) for kind in READERS for seed in range(9))


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_many_mutated_files(kind: str, folder: Path, hostile: Hostile) -> None:
    hostile(mutated(folder, kind, seed) for seed in range(12, 120))


def aliases(first: str, row: Callable[[int, str], str], *, depth: int = 10) -> str:
    """Each line repeats the one before nine times."""
    return first + "".join(row(level, ", ".join([f"*a{level - 1}"] * 9)) for level in range(1, depth))


BOMBS = {
    "aliases": aliases("a0: &a0 [x, x]\n", lambda level, nine: f"a{level}: &a{level} [{nine}]\n"),
    "names of aliases": aliases("a0: &a0 [x, x]\n", lambda level, nine: f"a{level}: &a{level} [{nine}]\n")
    + "names: *a9\ntrain: x\n",
    "merged keys": aliases("a0: &a0 {b: 1, c: 2}\n", lambda level, nine: f"a{level}: &a{level} {{<<: [{nine}]}}\n"),
    "a chain of aliases": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 240)),
    "itself": "a: &a [*a]",
    "lists within lists": "[" * 100_000,
    "mappings within mappings": "{a: " * 100_000,
    "dashes": "- " * 100_000,
    "question marks": "? " * 100_000,
    "a number of 20,000 digits": f"nc: {'9' * 20_000}\ntrain: x",
    "a hexadecimal one": f"nc: 0x{'f' * 20_000}\ntrain: x",
    "one in base 60": f"nc: {'59:' * 20_000}59\ntrain: x",
    "a float of as many": f"lr0: 1.{'0' * 20_000}",
    "many keys": "".join(f"trian{number}: 1\n" for number in range(100_000)),
    "many values": "- a\n" * 1_000_000,
    "many classes": "train: x\nnames: [" + "a, " * 150_000 + "]",
    "many downloads": "train: x\nnc: 1\ndownload: [" + "{urk: 1}, " * 60_000 + "]",
    "many entries": "nc: 1\ntrain: [" + "x, " * 200_000 + "]",
    "a class count": "train: x\nnc: 999999999999",
    "a long text": f"train: {'x' * 3_000_000}\nnc: 1",
    "a large file": "# " + "x" * 5_000_000,
    "many documents": "---\n" * 1_000_000,
    "many tags": "%TAG !a! x\n" * 300_000 + "--- a",
    "a home that is none": "path: ~nosuchuser/x\ntrain: ~nosuchuser\nnc: 1",
    "many images to render": "generate: {train: 99999999999}\ntrain: x\nval: y\nnc: 1",
}


def bomb_cases(bomb: str, folder: Path) -> list[Case]:
    path = folder / "bomb.yaml"

    def write() -> None:
        path.write_text(BOMBS[bomb])

    return [Case(f"{bomb} as {kind}", lambda read=read: read(path), write) for kind, read in READERS.items()]  # type: ignore[misc]


def test_bombs(tmp_path: Path, hostile: Hostile) -> None:
    hostile(case for bomb in BOMBS if not bomb.startswith("many") for case in bomb_cases(bomb, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("bomb", [bomb for bomb in BOMBS if bomb.startswith("many")])
def test_large_bombs(bomb: str, tmp_path: Path, hostile: Hostile) -> None:
    hostile(bomb_cases(bomb, tmp_path))
