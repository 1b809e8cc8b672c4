"""Model files that nobody meant: built, or refused in one line before they cost memory or time."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.hostile.conftest import Hostile
from tests.hostile.harness import Case, case
from tests.hostile.mutate import mutate_tree, rng
from yolorep.config import resources_dir
from yolorep.errors import UserError
from yolorep.models.detector import build_network
from yolorep.nn.registry import ROW_TYPES

CONV = [-1, 1, "Conv", [16, 3, 2]]


def model(*rows: Any, **keys: Any) -> dict[str, Any]:
    """A convolution, these rows, and a head."""
    head = [[[-2, -1], 1, "Detect", ["nc", "anchors"]]]
    return {"nc": 2, "anchors": 3, "backbone": [CONV, *rows, CONV], "head": head, **keys}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


#: What each asks for and what is said instead.
COSTLY: dict[str, tuple[dict[str, Any], str]] = {
    "repeats": (model([-1, 10**9, "Conv", [16]]), "at most 10,000 layers, found 1,000,000,003 in its rows"),
    "repeats of nothing": (model([-1, 10**9, "nn.Identity", []]), "at most 10,000 layers"),
    "repeats inside": (model([-1, 9000, "C3", [16]]), "at most 10,000 layers, those inside blocks counted"),
    "depth": (model([-1, 9, "C3", [16]], depth_multiple=1e9), "at most 1,000, found 1000000000.0"),
    "classes": (model(nc=10**9), "nc: expected at most 100,000 classes, found 1000000000"),
    "many digits": (model(nc=16**20_000), "expected numbers up to 1e\\+12, found one of 80001 bits"),
    "many digits in a row": (model([-1, 1, "Conv", [16**20_000]]), "found one of 80001 bits"),
    "many digits in from": (model([16**20_000, 1, "Conv", [16]]), "found one of 80001 bits"),
    "width": (model([-1, 1, "Conv", [512]], [-1, 1, "Conv", [512]], width_multiple=999), "at most 500,000,000 param"),
    "no number": (model(width_multiple=float("nan")), "found nan"),
    "infinite": (model(depth_multiple=float("inf")), "found inf"),
    "negative": (model(width_multiple=-1), "width_multiple: expected a number above 0, found -1"),
    "100 GB": (model([-1, 1, "Conv", [90_000]], [-1, 1, "Conv", [90_000, 3]]), "at most 500,000,000 parameters"),
    "kernel": (model([-1, 1, "Conv", [16, 99_999]]), "at most 500,000,000 parameters"),
    "itself": ({**model(), "backbone": [[0, 1, "Conv", [16]]]}, "means layer 0, but this is layer 0"),
    "rows": (model(*[[-1, 1, "nn.Identity", []]] * 20_000), "at most 10,000 layers"),
    "wrong rows": (model(*[[-1, 1, "Cnv", [16]]] * 9_000), "unknown module 'Cnv' .*and more|Cnv.*\\.\\.\\."),
    "wrong keys": (model(**{f"key{i}": 1 for i in range(50_000)}), "key0: unknown key"),
    "doubled": (model(*[[[-1, -1], 1, "Concat", [1]]] * 60), "at most 100,000 channels"),
    "enlarged": (model(*[[-1, 1, "nn.Upsample", [None, 2]]] * 40), "at most 100,000,000 values of a feature"),
    "padded": (model([-1, 1, "nn.ZeroPad2d", [10**6]]), "at most 100,000,000 values of a feature"),
    "branches": (model([-1, 1, "RepConv", [16]], branches=10**6), "at most 10,000 layers"),
    "expanded": (
        model([-1, 1, "Conv", [1024, 3]], [-1, 1, "Conv", [1024, 3]], expand="mobileone:k=64"),
        "at most 500,000,000 parameters, found about",
    ),
    "anchors": (model(anchors=10**9), "at most 1,000 anchors a level"),
    "deep": (model([-1, 1, "Conv", nested(5_000)]), "lists inside each other 8 times at most"),
    "brackets": (model(activation="nn.ReLU(" + "(" * 900), "expected an activation such as"),
    "signs": (model([-1, 1, "Conv", [16, 3, 1, None, 1, 1, "-" * 900 + "1"]]), "expected an activation such as"),
    "long word": (model([-1, 1, "C" * 10**6, []]), "words of at most 1,000 letters, found 1,000,000"),
    "two features": (model([-1, 1, "nn.MaxPool2d", [2, 2, 0, 1, True]]), "expected a feature, found a tuple"),
}


def refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        build_network(value)
    raise raised.value


def test_what_costs_too_much_is_refused(hostile: Hostile) -> None:
    hostile([case(name, refused, *costly) for name, costly in COSTLY.items()], warm=lambda: build_network(model()))


def files() -> list[Any]:
    """Shipped files of different families, small ones."""
    names = ("yolov5/n", "yolov5/v3-tiny", "yolov5/s-ghost", "mobileone/s0", "fastvit/t8", "yolov5n_mobileone")
    return [resources_dir() / f"cfg/{name}.yaml" for name in names]


def mutated(seed: int) -> Case:
    """A shipped file, its parts written into it, with one or two values replaced, moved or repeated."""
    random = rng("model", seed)
    path = random.choice(files())
    value = yaml.safe_load(path.read_text())
    for key, entry in value.items():
        if isinstance(entry, str) and entry.endswith(".yaml"):
            value[key] = yaml.safe_load((path.parent / entry).read_text())
    for _ in range(random.randint(1, 2)):
        rows = value[random.choice([key for key in ("backbone", "neck", "head") if isinstance(value.get(key), list)])]
        if not rows:
            continue
        row = random.choice(rows)
        change = random.randrange(5)
        if change == 0:
            rows.insert(random.randrange(len(rows)), row)
        elif change == 1:
            rows.remove(row)
        elif change == 2 and isinstance(row, list) and len(row) > 2:
            row[2] = random.choice(list(ROW_TYPES))
        elif change == 3 and isinstance(row, list) and len(row) > 3 and isinstance(row[3], list):
            row[3].insert(0, random.choice([0, 1, 3, 64, 10**6, None, "nn.ReLU()", [1, 2]]))
        else:
            value = mutate_tree(value, random)
        if not isinstance(value, dict) or not any(isinstance(value.get(key), list) for key in ("backbone", "head")):
            break
    return Case(f"model {path.stem} {seed}", lambda: build_network(value))


def test_mutated_files(hostile: Hostile) -> None:
    hostile([mutated(seed) for seed in range(15)], warm=lambda: build_network(model()))


@pytest.mark.slow
def test_many_mutated_files(hostile: Hostile) -> None:
    hostile([mutated(seed) for seed in range(15, 165)], warm=lambda: build_network(model()))
