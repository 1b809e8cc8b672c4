"""The command line: flags, exit codes, one-line errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from yolorep import cli
from yolorep.errors import FuseError
from yolorep.formats import FORMATS
from yolorep.options import CompareOptions, DetectOptions, TrainOptions, ValOptions

MODEL = "cfg/yolov5n_mobileone.yaml"


def test_defaults_are_yolov5s() -> None:
    command, options = cli.parse(["train"])
    assert (command, options) == ("train", TrainOptions())
    assert (options.planned_epochs, options.batch_size, options.imgsz) == (100, 16, 640)


@pytest.mark.parametrize(
    ("argv", "changes"),
    [
        (["--img", "320", "--batch-size", "8"], {"imgsz": 320, "batch_size": 8}),
        (["--batch_size", "8", "--cos-lr"], {"batch_size": 8, "cos_lr": True}),
        (["--batch-size", "-1"], {"batch_size": -1}),
        (["--log", "wandb", "mlflow"], {"log": ["wandb", "mlflow"]}),
        (["--cache"], {"cache": "ram"}),
        (["--cache", "disk"], {"cache": "disk"}),
        (["--resume"], {"resume": ""}),
        (["--resume", "last.pt"], {"resume": "last.pt"}),
        (["--freeze", "10"], {"freeze": [10]}),
        (["--freeze", "0", "1", "2"], {"freeze": [0, 1, 2]}),
    ],
)
def test_train_flags(argv: list[str], changes: dict[str, Any]) -> None:
    assert cli.parse(["train", *argv]) == ("train", TrainOptions(**changes))


def test_other_commands() -> None:
    assert cli.parse(["val", "--weights", "w.pt", "--no-fuse"]) == ("val", ValOptions(weights="w.pt", no_fuse=True))
    compared = CompareOptions(weights=["a.pt", "b.onnx"], resamples=200)
    assert cli.parse(["compare", "--resamples", "200", "a.pt", "b.onnx"]) == ("compare", compared)
    expected = DetectOptions(weights="w.pt", source="0", classes=["0", "car"])
    assert cli.parse(["detect", "--weights", "w.pt", "--source", "0", "--classes", "0", "car"]) == ("detect", expected)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian' (did you mean 'train'?)"),
        (["train", "--epohcs", "3"], "unknown flag --epohcs (did you mean '--epochs'?)"),
        (["train", "--epochs", "three"], "argument --epochs: invalid int value: 'three'"),
        (["train", "--optimizer", "RMSprop"], "invalid choice: 'RMSprop'"),
        (["train", "--evolve", "300"], "--evolve of YOLOv5 is not offered: try values in a copy of cfg/hyp"),
        (["val", "--conf-thres", "1.5"], "--conf-thres: expected a number from 0 to 1, found 1.5"),
        (["train", "--batch-size", "0"], "--batch-size: expected a number of at least 1, or -1, found 0"),
        (["train", "--batch-size", "-2"], "--batch-size: expected a number of at least 1, or -1, found -2"),
        (
            ["train", "--batch-size", "9" * 400],
            "--batch-size: expected a number of at most 4294967295, found a larger one",
        ),
        (["train", "--seed", str(2**70)], "--seed: expected a number of at most 4294967295"),
        (["train", "--project", "a\0b"], r"--project: expected text, found 'a\x00b', which holds a NUL character"),
        (["compare", "a.pt", "b\0.pt"], "--weights: expected text, found"),
        (["train", "--workers", "100000"], "--workers: expected a number from 0 to 512, found 100000"),
        (["train", "--freeze", "1", str(-(2**64))], "--freeze: expected a number of at most 4294967295"),
        (["info", "--cfg", MODEL, "--imgsz", "1000000000"], "--imgsz: expected an image size from 1 to 16384 pixels"),
        (["info", "--cfg", "a\nb\x1b[2J\ud800"], r"a\nb\x1b[2J\ud800: no such file"),
        (["info", "--weights", "x" * 100_000], "x [… 99"),
        (["val", "--batch-size", "-1"], "--batch-size: expected a number of at least 1, found -1"),
        (
            ["train", "--device", "0,1"],
            "--device 0,1: expected one device, found several, which nothing runs on",
        ),
        (["detect", "--line-thickness", "0"], "--line-thickness: expected a number from 1 to 1000, found 0"),
        (["val", "--dnn"], "--dnn of YOLOv5 is not offered"),
        (["train", "--resume_evolve", "x"], "--resume_evolve of YOLOv5 is not offered"),
        (["train", "--half"], "unknown flag --half"),
        (["val", "--weights", "w.onnx", "--half"], "no such file"),
        (["val", "extra"], "expected flags, found 'extra'"),
        (["compare", "a.pt", "--half", "b.pt"], "compare: expected all weights in a row, found 'b.pt'"),
        (["compare"], "the following arguments are required: WEIGHTS"),
        (["compare", "a.pt", "b.pt", "--resamples", "1"], "--resamples: expected a number from 100 to 1e+06, found 1"),
        (["info"], "expected either --weights or --cfg, found neither"),
        (["info", "--cfg", "cfg/yolov5/q.yaml"], "no such file"),
        (["fuse", "--weights", "missing.pt"], "missing.pt: no such file"),
        (["fuse", "--cfg", MODEL, "--output", "x.onnx"], "expected a file ending in .pt"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(("size", "refused"), [("2", True), ("16", True), ("1", False)])
def test_several_processes_are_refused_before_anything_is_created(
    size: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--data", "nowhere.yaml", "--project", "runs"]) == 2
    error = capsys.readouterr().err
    assert (f"WORLD_SIZE {size}: expected one process" in error) == refused and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (OSError("disk full"), 1), (FuseError("wrong"), 1)]
)
def test_exit_codes(raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: Any) -> None:
        raise raised

    monkeypatch.setattr(cli, "run", fail)
    assert cli.main(["train"]) == code


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS)])
def test_help_is_tidy(command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # nothing is wrapped
    with pytest.raises(SystemExit):
        cli.main([*command, "--help"])
    _, _, body = capsys.readouterr().out.partition("\n\n")
    # "  --flag VALUE  help", or the help on a line of its own.
    rows = re.findall(r"^ {2,4}(?!command$)(\S.*(?:\n {20,}.*)?)", body, re.MULTILINE)
    flags = (
        len(fields(cli.COMMANDS[command[0]])) + 2 if command else len(cli.COMMANDS) + 2
    )  # --help and --import, --version
    assert len(rows) == flags
    for row in rows:
        name, *texts = re.split(r"\s{2,}", row)
        assert len(texts) == 1 and texts[0], f"{name}: expected one text without doubled blanks, found {texts}"
        assert not UNTIDY.search(texts[0]), row


#: What a generated help text must not hold: values of Python's, unfilled places, a default said twice or of nothing.
UNTIDY = re.compile(r"None|False|True|\(default: *[()\[\]{}'\"]|[{}]|default:.*default:| $")


def test_help_lists_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("export", "val", "detect", "compare"):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert ", ".join(FORMATS) in re.sub(r"\s+", " ", capsys.readouterr().out)


@pytest.mark.parametrize("command", [[], ["train"], ["detect"], ["compare"]])
def test_help_needs_no_torch(command: list[str]) -> None:
    code = (
        "import sys\nfrom yolorep.cli import main\n"
        f"try: main({[*command, '--help']!r})\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'cv2' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_importing_the_package_is_light() -> None:
    start = time.process_time()
    subprocess.run([sys.executable, "-c", "import yolorep, sys; assert 'torch' not in sys.modules"], check=True)
    assert time.process_time() - start < 5


def test_the_predictor_imports_what_it_needs() -> None:
    code = """
import sys
from yolorep import Predictor
heavy = "torchvision matplotlib pycocotools onnx onnxruntime pandas pydantic yolorep.nn yolorep.models.network"
found = [name for name in [*heavy.split(), "yolorep.training"] if name in sys.modules]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_info_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--cfg", MODEL, "--json", "--imgsz", "64"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["params"], info["params_fused"], info["strides"]) == (1_973_949, 1_545_197, [8, 16, 32])
    assert len(info["names"]) == 80 and len(info["layers"]) == 25
    assert info["gflops_fused"] < info["gflops"]
    assert sum(layer["params"] for layer in info["layers"]) == info["params"]


def test_info_table_with_times(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--cfg", MODEL, "--profile", "--imgsz", "60"]) == 0
    out = capsys.readouterr().out
    assert "rounded up to 64" in out and "MobileOne" in out and "1,545,197 fused" in out


def test_fuse_writes_a_file_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fused.pt"
    assert cli.main(["fuse", "--cfg", MODEL, "--imgsz", "64", "--output", str(out)]) == 0
    assert "no BatchNorm and no layer scale is left" in capsys.readouterr().out
    assert cli.main(["fuse", "--weights", str(out), "--imgsz", "64", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["records"] == [] and report["params"] == 1_545_197 and report["kept"] == []


BLOCK = """
from torch import nn
from yolorep import register

@register()
class Own(nn.Module):
    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, 3, 2, 1)

    def forward(self, x):
        return self.conv(x)
"""


@pytest.mark.slow
def test_blocks_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(BLOCK)
    Path("m.yaml").write_text("{nc: 1, backbone: [[-1, 1, Own, [8]]], head: [[[-1], 1, DetectFree, [nc]]]}")
    assert cli.main(["info", "--cfg", "m.yaml", "--import", "gone.py"]) == 2
    assert capsys.readouterr().err == "error: --import gone.py: no such file\n"
    # In a process of its own: a row that is registered stays.
    fuse = [
        sys.executable,
        "-m",
        "yolorep",
        "fuse",
        "--cfg",
        "m.yaml",
        "--imgsz",
        "64",
        "--output",
        "f.pt",
        "--import",
        "own.py",
    ]
    subprocess.run(fuse, check=True, stdout=subprocess.DEVNULL)
    for source in (["--cfg", "m.yaml"], ["--weights", "f.pt"]):
        assert cli.main(["info", *source, "--imgsz", "64"]) == 2
        error = capsys.readouterr().err
        assert "needs the row Own: give --import the file that registers it" in error and error.count("\n") == 1
