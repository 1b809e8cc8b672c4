"""Runs whose files are damaged: they go on, or one line says which file is wrong, and nothing has been changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.hostile.conftest import Hostile
from tests.hostile.harness import Case
from tests.hostile.mutate import mutate_bytes, mutate_text, mutate_tree, rng
from tests.training.toy_run import StopAfter, options, train, write_toy_data
from yolorep.errors import UserError
from yolorep.options import TrainOptions
from yolorep.training.inputs import resume_run
from yolorep.training.run import build_trainer
from yolorep.weights.load import load_checkpoint

#: What may stand where something else is expected.
OTHERS: tuple[Any, ...] = (
    *(None, True, -1, 10**15, 0.5, float("nan"), float("inf"), "x", [], {}, {"a": 1}, [1, 2]),
    *(torch.zeros(0), torch.zeros(3), torch.tensor(float("nan")), torch.ones(2, dtype=torch.int64)),
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run of three epochs that was interrupted in the second."""
    folder = tmp_path_factory.mktemp("begun")
    write_toy_data(folder)
    with pytest.raises(KeyboardInterrupt):
        train(options(folder, optimizer="AdamW"), StopAfter(4))
    return folder / "runs" / "exp"


def copied(run: Path, folder: Path) -> Path:
    """The same run again, in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder)
    return folder


def prepare(run: Path) -> None:
    """All that happens before a resumed run trains."""
    build_trainer(resume_run(TrainOptions(resume=str(run), device="cpu")))


def go_on(run: Path) -> None:
    train(TrainOptions(resume=str(run), device="cpu"))


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path to a value, of long lists and of many tensors the first only."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(min(len(tree), 1)):
            yield (*path, key)
            if len(path) < 4 and key not in (*range(1, 99), "model_config"):
                yield from places(tree[key], (*path, key))


def spoil(content: dict[str, Any], path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> dict[str, Any]:
    """A copy in which one value is changed; tensors are shared."""
    copy: Any = _copy(content)
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    change(holder, path[-1])
    return copy


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def delete(holder: Any, key: Any) -> None:
    del holder[key]


def replacing(value: Any) -> Callable[[Any, Any], None]:
    def replace(holder: Any, key: Any) -> None:
        holder[key] = value

    return replace


def rename(holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)


def changes(content: dict[str, Any]) -> list[tuple[str, tuple[Any, ...], Callable[[Any, Any], None]]]:
    kinds = {"deleted": delete, "renamed": rename} | {f"now {value!r:.30}": replacing(value) for value in OTHERS}
    first_tensors = [path for path in places(content) if path[0] not in ("state_dict", "ema") or len(path) == 1]
    tensors = [path for path in places(content) if path[0] in ("state_dict", "ema") and len(path) == 2]
    return [
        (f"{'.'.join(map(str, path))} {kind}", path, change)
        for path in [*first_tensors, *tensors[:2], *tensors[-2:]]
        for kind, change in kinds.items()
    ]


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_every_value_of_last(hostile: Hostile, begun: Path, tmp_path: Path, count: int) -> None:
    content = torch.load(begun / "weights" / "last.pt", weights_only=True)
    run = copied(begun, tmp_path / "run")
    every = changes(content)
    assert len(every) > 500
    chosen = rng("last", count).sample(every, min(count, len(every)))
    hostile(
        Case(
            name,
            lambda: prepare(run),
            before=lambda path=path, change=change: torch.save(
                spoil(content, path, change), run / "weights" / "last.pt"
            ),
        )
        for name, path, change in chosen
    )


@pytest.mark.slow
def test_several_values_of_last_and_training(hostile: Hostile, begun: Path, tmp_path: Path) -> None:
    """What is let through also trains to its end."""
    content = torch.load(begun / "weights" / "last.pt", weights_only=True)
    run, every = tmp_path / "run", changes(content)
    random = rng("training")

    def write(path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> None:
        torch.save(spoil(content, path, change), copied(begun, run) / "weights" / "last.pt")

    hostile(
        Case(name, lambda: go_on(run), before=lambda path=path, change=change: write(path, change))
        for name, path, change in random.sample(every, 50)
    )


@pytest.mark.parametrize("count", [3, pytest.param(80, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["args.yaml", "hyp.yaml", "results.csv", "weights/best.pt", "weights/last.pt"])
def test_bytes_of_every_file(hostile: Hostile, begun: Path, tmp_path: Path, name: str, count: int) -> None:
    data, run = (begun / name).read_bytes(), copied(begun, tmp_path / "run")
    hostile(
        Case(
            f"{name} {seed}",
            lambda: prepare(run),
            before=lambda seed=seed: (run / name).write_bytes(mutate_bytes(data, rng(name, seed))),
        )
        for seed in range(count)
    )


@pytest.mark.parametrize("count", [4, pytest.param(120, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["args.yaml", "hyp.yaml", "results.csv"])
def test_words_of_the_texts(hostile: Hostile, begun: Path, tmp_path: Path, name: str, count: int) -> None:
    run, text = copied(begun, tmp_path / "run"), (begun / name).read_text()

    def write(seed: int) -> None:
        random = rng(name, seed)
        if name == "results.csv" or seed % 2:
            (run / name).write_bytes(mutate_text(text, random).encode("utf-8", "surrogatepass"))
        else:
            changed = mutate_tree(yaml.safe_load(text), random, (*OTHERS[:12], 2**40, "é", "a\nb"))
            (run / name).write_text(yaml.safe_dump(changed))

    hostile(Case(f"{name} {seed}", lambda: prepare(run), before=lambda seed=seed: write(seed)) for seed in range(count))


def edited(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = torch.load(run / "weights" / "last.pt", weights_only=True)
    change(content)
    torch.save(content, run / "weights" / "last.pt")


def state_of(content: dict[str, Any]) -> dict[str, Any]:
    return content["training"]["optimizer"]["state"][0]


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no optimizer": (lambda c: c["training"].pop("optimizer"), r"training\.optimizer is missing"),
    "another optimizer's state": (
        lambda c: c["training"]["optimizer"]["state"].update({0: {"momentum_buffer": torch.zeros(1)}}),
        r"optimizer\.state\.0 is not what AdamW remembers",
    ),
    "a moment of another shape": (
        lambda c: state_of(c).update(exp_avg=torch.zeros(5)),
        r"state\.0\.exp_avg does not fit",
    ),
    "a moment that is no number": (
        lambda c: state_of(c)["exp_avg"].fill_(float("nan")),
        r"state\.0\.exp_avg does not fit",
    ),
    "a negative square": (lambda c: state_of(c)["exp_avg_sq"].fill_(-1), r"exp_avg_sq does not fit"),
    "groups of another model": (
        lambda c: c["training"]["optimizer"]["param_groups"][0]["params"].pop(),
        "the groups of parameters differ",
    ),
    "more epochs than planned": (
        lambda c: c["training"]["progress"].update(epochs_done=10**6),
        r"expected at least 1000001, for .* has done 1000000 of 3 epochs",
    ),
    "a fitness above 1": (
        lambda c: c["training"]["progress"].update(best_fitness=7.0),
        r"training\.progress\.best_fitness does not fit",
    ),
    "a progress of text": (lambda c: c["training"]["progress"].update(epochs_done="1"), "epochs_done does not fit"),
    "no averaged weights": (lambda c: c.update(ema=None), "expected a last.pt with the state of a run"),
    "averaged weights of another shape": (
        lambda c: c["ema"].update({"model.0.conv.bn.bias": torch.zeros(1)}),
        r"averaged weights.* 1 of another shape",
    ),
    "averaged weights that are no numbers": (
        lambda c: c["ema"]["model.0.conv.bn.bias"].fill_(float("inf")),
        "averaged weights.* not finite",
    ),
    "random numbers of another length": (
        lambda c: c["training"]["rng"].update(cpu=torch.zeros(9, dtype=torch.uint8)),
        r"training\.rng does not fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state(begun: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    run = copied(begun, tmp_path / "run")
    edited(run, change)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        train(TrainOptions(resume=str(run), device="cpu"))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


TABLES = {
    "binary": b"\x89PNG\r\n\x1a\n\0\0",
    "empty": b"",
    "no numbers": b"epoch,AP\none,two\n",
    "a column less": b"epoch,AP\n1,0.5\n",
    "no rows": None,
    "another epoch": b"epoch\n7\n",
    "NUL": b"epoch\0,AP\n1\0,2\n",
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_a_damaged_table(begun: Path, tmp_path: Path, table: bytes | None) -> None:
    run = copied(begun, tmp_path / "run")
    path = run / "results.csv"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0] if table is None else table)
    with pytest.raises(UserError, match=r"results\.csv: expected a row of numbers for each epoch so far"):
        prepare(run)
    path.unlink()
    prepare(run)  # without one, a new one is begun


def test_a_run_without_its_best(begun: Path, tmp_path: Path) -> None:
    run = copied(begun, tmp_path / "run")
    best = run / "weights" / "best.pt"
    if not best.is_file():
        shutil.copy(run / "weights" / "last.pt", best)
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.write_bytes(content)
    with pytest.raises(UserError, match=r"best\.pt: not a readable checkpoint: it is damaged"):
        prepare(run)
    best.unlink()
    edited(run, lambda content: content["training"]["progress"].update(best_fitness=1.0))
    go_on(run)
    assert load_checkpoint(best).build()
