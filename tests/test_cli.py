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
        (["--img-size", "320", "--batch", "8"], {"imgsz": 320, "batch_size": 8}),
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
    ("argv", "size"),
    [
        (["--imgsz", "640"], 640),
        (["--imgsz", "480", "640"], (480, 640)),
        (["--img", "480", "640"], (480, 640)),
        (["--img-size=480", "640"], (480, 640)),
        (["--img", "480,640"], (480, 640)),
        (["--imgsz", "480x640"], (480, 640)),
        (["--imgsz", "[480, 640]"], (480, 640)),
        (["--imgsz", "640", "--device", "2"], 640),
    ],
)
@pytest.mark.parametrize("command", ["val", "detect", "export", "compare"])
def test_one_size_or_two(command: str, argv: list[str], size: object) -> None:
    files = ["a.pt", "3"] if command == "compare" else []
    _, options = cli.parse([command, *argv, *files])
    assert options.imgsz == size
    assert not files or options.weights == files


@pytest.mark.parametrize(
    ("command", "argv", "changes"),
    [
        ("val", ["--conf", "0.5", "--batch", "2"], {"conf_thres": 0.5, "batch_size": 2}),
        ("compare", ["a.pt", "--iou", "0.5"], {"weights": ["a.pt"], "iou_thres": 0.5}),
        ("detect", ["--conf", "0.5", "--iou", "0.5"], {"conf_thres": 0.5, "iou_thres": 0.5}),
        ("export", ["--batch", "2"], {"batch_size": 2}),
    ],
)
def test_short_flags(command: str, argv: list[str], changes: dict[str, Any]) -> None:
    assert cli.parse([command, *argv]) == (command, cli.COMMANDS[command](**changes))


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
        (["detect", "--weights", "a.pt", "b.pt"], "expected nothing more after --weights, found 'b.pt'; name one file"),
        (["val", "--batch", "4", "--weights=a.pt", "b.pt"], "expected nothing more after --weights, found 'b.pt'"),
        (["detect", "--source", "a.jpg", "b.jpg"], "found 'b.jpg'; put a pattern in quotes, '*.jpg'"),
        (["detect", "--save-txt", "yes"], "detect: expected nothing more after --save-txt, found 'yes'"),
        (["train", "--batch-size", "-1", "4"], "train: expected nothing more after --batch-size, found '4'"),
        (["train", "--epochs", "3", "4"], "train: expected nothing more after --epochs, found '4'"),
        (["compare", "a.pt", "--half", "b.pt"], "compare: expected all weights in a row, found 'b.pt'"),
        (["compare"], "the following arguments are required: WEIGHTS"),
        (["model=best.pt"], "expected a command first, found 'model=best.pt'; write yolorep detect --weights best.pt"),
        (["predict"], "unknown command 'predict' (did you mean 'detect'?)"),
        (["test"], "unknown command 'test' (did you mean 'val'?)"),
        (["train", "--exist"], "unknown flag --exist (did you mean '--exist-ok'?)"),
        (["train", "--model", "x.pt"], "--model of ultralytics is --weights here, or --cfg for a YAML"),
        (["train", "--lr0", "0.1"], "--lr0 of ultralytics is not offered: write lr0 into a copy of cfg/hyp"),
        (["detect", "--show"], "--show of ultralytics is --view-img here"),
        (
            ["detect", "--batch-size", "2"],
            "--batch-size of ultralytics is not offered: leave it out;",
        ),
        (["detect", "--line-width", "2"], "--line-width of ultralytics is --line-thickness here"),
        (["export", "--format", "onnx"], "--format of ultralytics is --include here"),
        (["val", "--split", "test"], "--split of ultralytics is --task here"),
        (
            ["export", "model=best.pt", "imgsz=480,640", "half=True", "dynamic=True", "format=onnx"],
            "found 'model=best.pt'; write yolorep export --weights best.pt --imgsz 480 640 --dynamic --include onnx "
            "(without half)",
        ),
        (
            ["detect", "train", "model=yolov8n.yaml", "data=my data.yaml", "batch=-1", "rect=False"],
            "write yolorep train --cfg yolov8n.yaml --data 'my data.yaml' --batch-size -1",
        ),
        (["detect", "predict", "source=a=b.jpg", "classes=[0, 2]"], "detect --source a=b.jpg --classes 0 2"),
        (["train", "--imgsz", "480", "640"], "expected one number here, the side in pixels, found '480 640'"),
        (["info", "--img", "640", "640"], "expected one number here, the side in pixels, found '640 640'"),
        (["train", "--imgsz", "big"], "expected one number here, the side in pixels, found 'big'"),
        (["val", "--imgsz", "1", "2", "3"], "one number or height and width such as 480 640, found '1 2 3'"),
        (["detect", "--imgsz", "0", "640"], "--imgsz: expected a number of at least 1, found 0"),
        (["export", "--imgsz", "-1"], "one number or height and width such as 480 640, found '-1'"),
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


YOLOV5 = {
    "train": "weights cfg data hyp epochs batch-size img imgsz img-size rect resume nosave noval noautoanchor noplots "
    "evolve evolve_population resume_evolve bucket cache image-weights device multi-scale single-cls optimizer sync-bn "
    "workers project name exist-ok quad cos-lr label-smoothing patience freeze save-period seed local_rank entity "
    "upload_dataset bbox_interval artifact_alias ndjson-console ndjson-file adam linear-lr cache-images notest",
    "val": "data weights batch-size img imgsz img-size conf-thres iou-thres max-det task device workers single-cls "
    "augment verbose save-txt save-hybrid save-conf save-json project name exist-ok half dnn",
    "detect": "weights source data img imgsz img-size conf-thres iou-thres max-det device view-img save-txt "
    "save-format save-csv save-conf save-crop nosave classes agnostic-nms augment visualize update project name "
    "exist-ok line-thickness hide-labels hide-conf half dnn vid-stride",
    "export": "data weights img imgsz img-size batch-size device half inplace keras optimize int8 per-tensor dynamic "
    "simplify mlmodel opset verbose workspace nms agnostic-nms topk-per-class topk-all iou-thres conf-thres include "
    "cache grid",
}
ULTRALYTICS = {
    "train": "model data epochs time patience batch imgsz save save_period cache device workers project name "
    "exist_ok pretrained optimizer seed deterministic verbose single_cls classes rect multi_scale cos_lr close_mosaic "
    "resume amp fraction profile freeze lr0 lrf momentum weight_decay warmup_epochs warmup_momentum warmup_bias_lr box "
    "cls dfl pose kobj nbs overlap_mask mask_ratio dropout val plots compile hsv_h hsv_s hsv_v degrees translate scale "
    "shear perspective flipud fliplr bgr mosaic mixup cutmix copy_paste copy_paste_mode auto_augment erasing",
    "val": "model data imgsz batch save_json conf iou max_det half device dnn plots classes rect split project name "
    "verbose save_txt save_conf workers augment agnostic_nms single_cls visualize compile exist_ok",
    "detect": "model source conf iou imgsz rect half device batch max_det vid_stride stream_buffer visualize augment "
    "agnostic_nms classes retina_masks embed project name stream verbose compile show save save_frames save_txt "
    "save_conf save_crop show_labels show_conf show_boxes line_width exist_ok dnn data",
    "export": "model format imgsz keras optimize half int8 dynamic simplify opset workspace nms batch device data "
    "fraction conf iou",
}


@pytest.mark.parametrize("tool", [YOLOV5, ULTRALYTICS], ids=["yolov5", "ultralytics"])
@pytest.mark.parametrize("command", list(YOLOV5))
def test_every_flag_of_other_tools_is_taken_or_answered(
    tool: dict[str, str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    offered = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    for name in tool[command].split():
        spelled = f"--{name.replace('_', '-')}"
        if spelled in offered:
            continue
        assert cli.main([command, f"--{name}", "1"]) == 2
        error = capsys.readouterr().err
        assert re.search(r" of (YOLOv5|ultralytics) is (not offered: |--)", error), error


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


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "a/last.pt"), "a/last.pt: No space left on device"),
        (OSError(28, "No space left on device"), "standard output: No space left on device"),
        (OSError(12, "Cannot allocate memory"), "Cannot allocate memory"),
    ],
)
def test_errors_of_the_system_name_their_file(
    error: OSError, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "run", fail)
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize(
    ("said", "line"), [("", "start again with the same command"), ("go on with --resume", "go on with --resume")]
)
def test_an_interruption_says_how_to_go_on(
    said: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: Any) -> None:
        raise KeyboardInterrupt(*filter(None, [said]))

    monkeypatch.setattr(cli, "run", fail)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == f"interrupted: {line}\n"


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
