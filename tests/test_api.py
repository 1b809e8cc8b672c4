"""The Python front door: the commands' options as keyword arguments, with the same checks."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import yolorep
from tests.training.toy_run import MODEL, write_toy_data
from yolorep import Callback, LossTerms, SequenceDataset, UserError, train, val
from yolorep.cli import main
from yolorep.commands.help_text import help_text
from yolorep.config import Hyp
from yolorep.models.detector import Detector
from yolorep.models.heads.anchor import Detect
from yolorep.nn.registry import ROW_TYPES, ends, register
from yolorep.options import DetectOptions, ExportOptions, TrainOptions, ValOptions
from yolorep.training.loggers.table import read_results


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YOLOREP_CACHE", str(tmp_path / "cache"))
    write_toy_data(tmp_path)
    return tmp_path


def arguments(work: Path, **changes: Any) -> dict[str, Any]:
    settings = {"epochs": 1, "batch_size": 2, "imgsz": 64, "device": "cpu", "workers": 0}
    places = {"cfg": work / "model.yaml", "data": work / "data.yaml", "project": work / "runs"}
    return {**settings, **places, **changes}


@pytest.mark.parametrize("name", yolorep.__all__)
def test_public_names(name: str) -> None:
    found = getattr(yolorep, name)
    assert found.__doc__ and name in dir(yolorep)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(yolorep.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (name.asname, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names
    }
    assert {name for name, _ in seen} == set(yolorep.__all__)
    assert all(getattr(import_module(str(module)), str(name)) is getattr(yolorep, str(name)) for name, module in seen)


def test_no_such_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = yolorep.trian


@pytest.mark.parametrize(
    ("call", "options"),
    [
        (yolorep.train, TrainOptions),
        (yolorep.val, ValOptions),
        (yolorep.detect, DetectOptions),
        (yolorep.export, ExportOptions),
    ],
)
def test_every_flag_is_a_documented_keyword(call: Any, options: type) -> None:
    parameters = inspect.signature(call).parameters
    for entry in fields(options):
        assert parameters[entry.name].kind is inspect.Parameter.KEYWORD_ONLY
        default = parameters[entry.name].default
        assert (default, type(default)) == (entry.default, type(entry.default))
        assert f"    {entry.name}: {help_text(entry)}" in call.__doc__


@pytest.mark.parametrize(
    ("call", "given", "message"),
    [
        (yolorep.train, {"epochs": 0}, "--epochs: expected a number of at least 1, found 0"),
        (yolorep.train, {"epochs": "three"}, r"train\(\): epochs: expected int \| None, found 'three'"),
        (yolorep.train, {"cache": "rom"}, "--cache: expected one of ram, disk, found 'rom'"),
        (yolorep.val, {"weights": "nowhere.pt"}, "nowhere.pt: no such file"),
        (yolorep.export, {"weights": "w.pt", "include": ["onx"]}, "did you mean 'onnx'"),
        (yolorep.export, {"weights": "w.pt", "include": "onx"}, "did you mean 'onnx'"),
        (yolorep.export, {"weights": "w.pt", "include": []}, "--include: expected at least one of onnx, torchscript"),
        (yolorep.export, {"weights": "w.onnx"}, "w.onnx: expected a checkpoint .* found an exported file"),
        (yolorep.detect, {}, "--source is missing"),
    ],
)
def test_wrong_input_is_the_command_lines_one_line(call: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        call(**given)
    assert "\n" not in str(raised.value)


def test_an_unknown_keyword_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="epohcs"):
        yolorep.train(epohcs=3)  # type: ignore[call-arg]


class Counting(Callback):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.metrics: list[float] = []
        self.ended = False

    def on_batch(self, trainer: Any, batch: Any, iteration: int) -> None:
        self.batches.append(iteration)

    def on_epoch(self, trainer: Any, result: Any) -> None:
        self.metrics.append(result.metrics["AP"])

    def on_end(self, trainer: Any) -> None:
        self.ended = True


def test_from_training_to_files(work: Path) -> None:
    counting = Counting()
    result = train(**arguments(work, epochs=2, callbacks=[counting]))
    assert counting.batches == [0, 1, 2, 3, 4, 5] and len(counting.metrics) == 2 and counting.ended
    assert result.folder == work / "runs" / "exp" and result.best.is_file() and result.last.is_file()
    assert repr(result).startswith("TrainResult(") and "AP" in repr(result)
    assert isinstance(result.model, Detector) and not result.model.training
    evaluation = val(weights=result.best, data=work / "data.yaml", project=work / "val", device="cpu", workers=0)
    assert evaluation.metrics == result.metrics
    assert evaluation.folder == work / "val" / "exp" and (evaluation.folder / "metrics.json").is_file()
    assert len(evaluation.detections) == 3 and "3 images" in repr(evaluation)
    assert all(found.names == ("blue", "green") and found.image_size == (64, 64) for found in evaluation.detections)
    (file,) = yolorep.export(weights=result.best, include=("torchscript",))
    folder = yolorep.detect(weights=file, source=work / "images" / "val", project=work / "out", save_csv=True)
    assert folder and (folder / "predictions.csv").is_file()


class Squares(nn.Module):
    """A loss that no head has: the mean square of everything predicted."""

    def __init__(self, model: Detector, recipe: Hyp) -> None:
        super().__init__()
        self.classes, self.gain = model.num_classes, recipe.box  # type: ignore[attr-defined]

    def forward(self, raw: Any, targets: torch.Tensor) -> LossTerms:
        loss = self.gain * sum(level.square().mean() for level in raw.levels)
        return LossTerms(loss, {"squares": loss.detach()})


def test_a_loss_of_ones_own(work: Path) -> None:
    result = train(**arguments(work, epochs=3, loss=Squares, noval=True))
    header = (result.folder / "results.csv").read_text().splitlines()[0]
    assert "train/squares" in header and "train/box" not in header


def test_a_run_with_a_loss_of_ones_own_goes_on_with_it(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(**arguments(work, epochs=2, loss=Squares, callbacks=[Interrupt()]))
    last = work / "runs" / "exp" / "weights" / "last.pt"
    before = last.read_bytes()
    with pytest.raises(UserError, match="expected the loss that it was started with, found none; .* with loss=$"):
        train(resume=last)
    assert main(["train", "--resume", str(last)]) == 2
    assert "expected the loss that it was started with, found none" in capsys.readouterr().err
    assert last.read_bytes() == before
    assert train(resume=last, loss=Squares).last == last


def test_a_run_with_its_heads_loss_takes_no_other(work: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(**arguments(work, epochs=2, callbacks=[Interrupt()]))
    with pytest.raises(UserError, match="expected no loss=, as the run was started without one; leave it out"):
        train(resume=work / "runs" / "exp", loss=Squares)


class Interrupt(Callback):
    """Ctrl-C after the first epoch."""

    def on_epoch(self, trainer: Any, result: Any) -> None:
        raise KeyboardInterrupt


class Stop(Callback):
    """One epoch is enough."""

    def should_stop(self, trainer: Any, result: Any) -> bool:
        return True


@pytest.mark.parametrize(
    "changes",
    [
        {},
        *(
            pytest.param(changes, marks=pytest.mark.slow)
            for changes in ({"nosave": True}, {"noval": True}, {"nosave": True, "noval": True})
        ),
    ],
    ids=lambda each: "-".join(each),
)
def test_a_callback_may_stop_the_run(work: Path, changes: dict[str, bool], capsys: pytest.CaptureFixture[str]) -> None:
    result = train(**arguments(work, epochs=5, callbacks=[Stop()], **changes))
    assert "stopped: Stop asked for it\n" in capsys.readouterr().out
    (row,) = read_results(result.folder / "results.csv")
    assert row["AP"] != ""
    assert result.best.is_file() and result.last.is_file() and (result.folder / "metrics.json").is_file()
    with pytest.raises(UserError, match="the run finished after 1 epochs; make it longer with --epochs"):
        train(resume=result.last)
    train(resume=result.last, epochs=6, callbacks=[Stop()])
    assert len(read_results(result.folder / "results.csv")) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"callbacks": Stop()}, "callbacks: expected a list of Callback objects, found a Stop"),
        ({"callbacks": Stop}, "callbacks: expected a list of Callback objects, found the class Stop"),
        ({"callbacks": [Stop]}, r"found the class Stop in it; write Stop\(\)"),
        ({"callbacks": [print]}, "found a builtin_function_or_method in it"),
        ({"loss": 3}, "loss: expected a class or function that makes the loss of .model, recipe., found a int"),
        ({"loss": lambda model: None}, r"found a function, which takes \(model\)"),
        ({"loss": lambda model, recipe: 3}, "loss: expected to make a loss, called with .raw, targets., found int"),
        ({"loss": Squares, "label_smoothing": 0.1}, "--label-smoothing 0.1: belongs to the head's loss"),
    ],
)
def test_what_python_hands_over_is_checked(work: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        train(**arguments(work, **given))
    assert "\n" not in str(raised.value)
    assert not (work / "runs").exists()


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (lambda loss: loss, "found a Tensor"),
        (lambda loss: LossTerms(loss, {"squares": 0.5}), "found squares a float"),  # type: ignore[dict-item]
        (lambda loss: LossTerms(loss.expand(2), {"squares": loss}), r"found total of shape \(2,\)"),
        (lambda loss: LossTerms(loss, [loss]), "found parts that are a list"),  # type: ignore[arg-type]
    ],
)
def test_what_a_loss_returns_is_checked(work: Path, returned: Any, found: str) -> None:
    def make(model: Detector, recipe: Hyp) -> Any:
        return lambda raw, targets: returned(raw.levels[0].square().mean())

    with pytest.raises(UserError, match=f"loss: expected LossTerms.*, {found}"):
        train(**arguments(work, loss=make))


def test_a_head_of_ones_own(work: Path) -> None:
    """It is trained as what it is derived from."""

    @register(repeats="once", channels=ends)
    class OwnDetect(Detect):
        """The same by another name."""

    try:
        rows = {**MODEL, "head": [[[1, 2], 1, "OwnDetect", ["nc", "anchors"]]]}
        (work / "own.yaml").write_text(yaml.safe_dump(rows))
        assert type(train(**arguments(work, cfg=work / "own.yaml")).model.head) is OwnDetect
    finally:
        ROW_TYPES.pop("OwnDetect")


def squares(count: int, *, seed: int) -> list[tuple[np.ndarray, list[list[float]]]]:
    """Bright squares on grey, blue or green, with their boxes."""
    rng = np.random.default_rng(seed)
    items = []
    for _ in range(count):
        image = np.full((64, 64, 3), 40, np.uint8)
        x, y, kind = (int(rng.integers(0, high)) for high in (32, 32, 2))
        image[y : y + 30, x : x + 30, kind] = 250
        items.append((image, [[kind, (x + 15) / 64, (y + 15) / 64, 30 / 64, 30 / 64]]))
    return items


def own_data(*, size: int = 64, names: tuple[str, ...] = ("blue", "green")) -> tuple[SequenceDataset, SequenceDataset]:
    return tuple(SequenceDataset(squares(4, seed=seed), names, image_size=size) for seed in (0, 1))  # type: ignore[return-value]


def own_arguments(work: Path, **changes: Any) -> dict[str, Any]:
    given = {**arguments(work), "dataset": own_data()}
    del given["data"], given["imgsz"]
    return {**given, **changes}


def test_data_of_ones_own(work: Path) -> None:
    result = train(**own_arguments(work, epochs=2))
    assert result.model.names == ("blue", "green") and result.model.geometry.image_size == 64
    assert (result.folder / "results.png").is_file()
    with pytest.raises(UserError, match="--data: missing"):
        val(weights=result.best, device="cpu")
    evaluation = val(weights=result.best, dataset=own_data()[1], device="cpu", project=work / "val")
    assert evaluation.metrics == result.metrics
    with pytest.raises(UserError, match="at which size, 64, found data or imgsz beside it"):
        val(weights=result.best, dataset=own_data()[1], imgsz=32)
    with pytest.raises(UserError, match="which is another class there; put its names in this order"):
        val(weights=result.best, dataset=own_data(names=("green", "blue"))[1], device="cpu", project=work / "val")


def test_data_of_ones_own_is_asked_for_again(work: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(**own_arguments(work, epochs=2, callbacks=[Interrupt()]))
    last = work / "runs" / "exp" / "weights" / "last.pt"
    with pytest.raises(UserError, match="expected the dataset that it was started with, found none"):
        train(resume=last)
    assert train(resume=last, dataset=own_data()).last == last


class Empty:
    """No data set: one member is missing, one is of another type."""

    annotations = None
    image_size = 64
    in_memory = True


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((own_data()[0], own_data(size=32)[1]), "the same image size everywhere, found 64 and 32"),
        ((own_data()[0], own_data(names=("a", "b"))[1]), "the same classes everywhere"),
        (own_data(size=60), "a multiple of the model's stride everywhere, found 64 and 60"),
        ((SequenceDataset([(np.zeros((8, 8, 3), np.uint8), [])], ["a"], image_size=64),) * 2, "objects to learn"),
        ((), "dataset: expected a pair of data sets, .*, found 0 in a tuple"),
        (own_data()[0], "dataset: expected a pair of data sets, .*, found a SequenceDataset"),
        (own_data()[:1], "found 1 in a tuple"),
        ((own_data()[0], Empty()), "the second: .* found a Empty, whose annotations, load_image are missing or of an"),
        ((own_data()[0], "val"), "the second: expected a data set as yolorep.Dataset describes it, found a str"),
    ],
)
def test_data_that_cannot_be_trained_on(work: Path, pair: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(**own_arguments(work, dataset=pair))
    assert not (work / "runs").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": "my.yaml"}, "without effect beside dataset=: data; leave it out"),
        ({"single_cls": True, "cache": "ram", "download": True}, "single_cls, cache, download; leave them out"),
        ({"imgsz": 32}, "imgsz: expected the dataset's image_size, 64, found 32; leave it out"),
    ],
)
def test_what_says_otherwise_than_the_data(work: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(**own_arguments(work, **given))
    assert not (work / "runs").exists()


def test_the_size_of_the_data_may_be_said(work: Path) -> None:
    assert train(**own_arguments(work, imgsz=64)).model.geometry.image_size == 64
