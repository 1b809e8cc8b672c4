"""The flags of every command, as frozen dataclasses. The command line is built from the fields.

A field's name is the flag's name (``batch_size`` is ``--batch-size``), its default the flag's default, and its type
says how the text is read. Names and defaults are YOLOv5's. Only the standard library is imported, to answer
``--help`` at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from yolorep.defaults import CONFIDENCE, IMAGE_SIZE, IOU, MAX_DETECTIONS
from yolorep.errors import UserError
from yolorep.limits import LARGEST_NUMBER

#: ``--batch-size`` that stands for one to be found.
FIND_BATCH_SIZE = -1
#: ``--workers`` that no machine has use for more than.
MOST_WORKERS = 512
_MAX_PIXELS = "pixels an image may have, larger ones are skipped (default: Pillow's limit, 89 million)"
#: ``--epochs`` and ``--workers`` of a new run unless told otherwise.
EPOCHS, WORKERS = 100, 2


def option(
    default: Any,
    help: str,
    *flags: str,
    positional: bool = False,
    choices: tuple[str, ...] = (),
    const: Any = None,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """A dataclass field with what the command line needs to know.

    Args:
        default: the flag's default value.
        help: one line for ``--help``; ``{formats}`` in it stands for the deployment formats there are.
        flags: further spellings of the flag.
        positional: values that stand on the command line by themselves, without the flag: at least one.
        choices: the values allowed.
        const: value of a flag given without one; without, the flag needs its value.
        low, high: the least and the largest number allowed.
    """
    metadata = {
        "help": help,
        "flags": flags,
        "positional": positional,
        "choices": choices,
        "const": const,
        "low": low,
        "high": high,
    }
    return field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """An option's flag on the command line."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all commands' options share: numbers and choices are checked.

    Raises:
        UserError: if a number is out of its range, or a value none of the choices.
    """

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, low, high = getattr(self, entry.name), entry.metadata["low"], entry.metadata["high"]
            choices = entry.metadata["choices"]
            for part in value if isinstance(value, list | tuple) else [value]:
                if isinstance(part, str) and "\0" in part:
                    raise UserError(f"{flag(entry.name)}: expected text, found {part!r}, which holds a NUL character")
                if isinstance(part, int) and abs(part) > LARGEST_NUMBER:
                    raise UserError(
                        f"{flag(entry.name)}: expected a number of at most {LARGEST_NUMBER}, found a larger one"
                    )
            if choices and value is not None and value not in choices:
                raise UserError(f"{flag(entry.name)}: expected one of {', '.join(choices)}, found {value!r}")
            for number in value if isinstance(value, tuple) else (value,):
                if number is None or ((low is None or number >= low) and (high is None or number <= high)):
                    continue
                wanted = f"a number of at least {low:g}" if high is None else f"a number from {low:g} to {high:g}"
                raise UserError(f"{flag(entry.name)}: expected {wanted}, found {number}")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Train a detector."""

    weights: str | None = option(None, "start from these weights: ours or a YOLOv5 .pt")
    cfg: str | None = option(
        None, "model YAML, or a packaged one's name: yolov5n (default: that of --weights, or else cfg/yolorep/n.yaml)"
    )
    backbone_weights: str | None = option(
        None, "with --cfg: ImageNet weights of its backbone, as timm, Apple or RepVGG's authors publish them"
    )
    expand: str | None = option(
        None, "train with extra branches that fuse away again: mobileone or repvgg, with :k=N for N kxk branches"
    )
    data: str = option("data/shapes.yaml", "dataset YAML")
    download: bool = option(False, "fetch the data set from where its YAML says, if it is missing")
    hyp: str | None = option(None, "hyperparameter YAML (default: the recipe of the model's head)")
    epochs: int | None = option(None, "passes over the training set (default: 100); with --resume, more of them", low=1)
    batch_size: int = option(16, "images a step; -1 for as many as a GPU holds, or as pay off on a CPU", "--batch")
    imgsz: int = option(
        IMAGE_SIZE, "long side of the training and evaluation images in pixels", "--img", "--img-size", low=1
    )
    rect: bool = option(False, "rectangular batches of similar aspect ratio, without mosaic")
    resume: str | None = option(None, "go on with a run: its last.pt, or the newest run's", const="")
    nosave: bool = option(False, "keep only best.pt until the last epoch")
    noval: bool = option(False, "evaluate only after the last epoch")
    noautoanchor: bool = option(False, "keep the model's anchors, whatever the data")
    cache: str | None = option(None, "keep decoded images in memory or on disk", choices=("ram", "disk"), const="ram")
    device: str = option("", "cpu, or a CUDA index; the first GPU if there is one")
    multi_scale: bool = option(False, "vary the image size by half from step to step")
    single_cls: bool = option(False, "treat all classes as one")
    optimizer: str | None = option(None, "instead of the recipe's optimizer", choices=("SGD", "Adam", "AdamW"))
    sync_bn: bool = option(False, "synchronize BatchNorm over processes")
    max_pixels: int | None = option(None, _MAX_PIXELS, low=1)
    workers: int | None = option(None, "data loading processes (default: 2)", low=0, high=MOST_WORKERS)
    project: str = option("runs/train", "folder for runs")
    name: str = option("exp", "folder of this run")
    exist_ok: bool = option(False, "write into an existing run folder")
    cos_lr: bool = option(False, "cosine instead of linear learning-rate decay")
    label_smoothing: float = option(0.0, "label smoothing epsilon", low=0, high=0.9)
    patience: int = option(100, "stop after this many epochs without a better AP", low=0)
    freeze: list[int] | None = option(None, "freeze the first N layers, or the layers listed")
    save_period: int = option(-1, "also keep a checkpoint every N epochs")
    log: list[str] | None = option(
        None,
        "where numbers go: tensorboard, mlflow, wandb, csv; results.csv always (default: tensorboard if installed)",
    )
    seed: int = option(0, "seed of everything random", low=0)
    precision: str = option(
        "auto",
        "of forward passes: auto is fp16 on CUDA, bf16 on CPUs that multiply matrices in it (AMX), else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1 and self.batch_size != FIND_BATCH_SIZE:
            raise UserError(f"--batch-size: expected a number of at least 1, or -1, found {self.batch_size}")

    @property
    def planned_epochs(self) -> int:
        """As many as were asked for, or the usual number."""
        return self.epochs or EPOCHS

    @property
    def planned_workers(self) -> int:
        """As many as were asked for, or the usual number."""
        return WORKERS if self.workers is None else self.workers


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Options):
    """How weights are evaluated."""

    data: str | None = option(None, "dataset YAML (default: the one the weights were trained on)")
    download: bool = option(False, "fetch the data set from where its YAML says, if it is missing")
    batch_size: int = option(16, "images a batch; the AP does not depend on it", "--batch", low=1)
    imgsz: int | tuple[int, int] | None = option(
        None,
        "long side of the images in pixels, or height and width (default: what the weights were trained at, or 640)",
        "--img",
        "--img-size",
        low=1,
    )
    conf_thres: float = option(0.001, "boxes below this confidence are not looked at", "--conf", low=0, high=1)
    iou_thres: float = option(0.6, "NMS: boxes of one class overlapping more than this are one", "--iou", low=0, high=1)
    max_det: int = option(300, "boxes kept an image", low=1)
    nms_free: bool = option(False, "run the one-to-one branch of a head that has one, without NMS")
    task: str = option("val", "split to evaluate", choices=("train", "val", "test"))
    device: str = option("", "cpu, or a CUDA index; the first GPU if there is one")
    max_pixels: int | None = option(None, _MAX_PIXELS, low=1)
    workers: int = option(WORKERS, "data loading processes", low=0, high=MOST_WORKERS)
    single_cls: bool = option(False, "treat all classes as one")
    augment: bool = option(False, "test-time augmentation: three scales, one of them flipped")
    half: bool = option(False, "float16 inference (CUDA)")
    no_fuse: bool = option(False, "evaluate the training form instead of the fused one")
    no_rect: bool = option(False, "square letterbox, as a static export sees it")
    name: str = option("exp", "folder of this run")
    exist_ok: bool = option(False, "write into an existing run folder")


@dataclass(frozen=True, kw_only=True)
class ValOptions(EvaluationOptions):
    """Evaluate weights: COCO AP by pycocotools."""

    weights: str = option("", "checkpoint (.pt) or exported file ({formats})")
    verbose: bool = option(False, "print every class, however many there are")
    save_txt: bool = option(False, "write labels/*.txt in YOLO form")
    save_conf: bool = option(False, "with --save-txt: add the confidence")
    save_json: bool = option(False, "write predictions.json in COCO form, with the data set's own ids")
    project: str = option("runs/val", "folder for runs")


@dataclass(frozen=True, kw_only=True)
class CompareOptions(EvaluationOptions):
    """Compare weights on the same images: AP side by side, and whether the difference is noise."""

    weights: list[str] = option(
        (), "two files or more, checkpoints (.pt) or exported ({formats}); the first is the baseline", positional=True
    )
    resamples: int = option(1000, "random draws of the images, which the intervals come from", low=100, high=1e6)
    seed: int = option(0, "seed of the draws", low=0)
    json: bool = option(False, "print JSON instead of tables")
    project: str = option("runs/compare", "folder for runs")


@dataclass(frozen=True, kw_only=True)
class DetectOptions(Options):
    """Detect objects in images, videos and streams."""

    weights: str = option("", "checkpoint (.pt) or exported file ({formats})")
    source: str = option("", "image, folder, glob, list file, video, camera index, URL, - (what is piped in) or screen")
    data: str | None = option(None, "dataset YAML with class names for weights that carry none")
    imgsz: int | tuple[int, int] | None = option(
        None,
        "long side of the input in pixels, or height and width (default: what the weights were trained at, or 640)",
        "--img",
        "--img-size",
        low=1,
    )
    conf_thres: float = option(CONFIDENCE, "boxes below this confidence are not shown", "--conf", low=0, high=1)
    iou_thres: float = option(IOU, "NMS: boxes of one class overlapping more than this are one", "--iou", low=0, high=1)
    max_det: int = option(MAX_DETECTIONS, "boxes kept an image", low=1)
    nms_free: bool = option(False, "run the one-to-one branch of a head that has one, without NMS")
    device: str = option("", "cpu, or a CUDA index; the first GPU if there is one")
    view_img: bool = option(False, "show the result in a window")
    save_txt: bool = option(False, "write labels/*.txt in YOLO form")
    save_csv: bool = option(False, "write predictions.csv")
    save_json: bool = option(False, "write predictions.json in COCO form")
    save_conf: bool = option(False, "with --save-txt: add the confidence")
    save_crop: bool = option(False, "write each object's crop to crops/<class>/")
    nosave: bool = option(False, "write no annotated images and videos")
    classes: list[int | str] | None = option(None, "keep these classes only, by name or index; a number is an index")
    agnostic_nms: bool = option(False, "boxes of different classes suppress each other too")
    augment: bool = option(False, "test-time augmentation: three scales, one of them flipped")
    project: str = option("runs/detect", "folder for runs")
    name: str = option("exp", "folder of this run")
    exist_ok: bool = option(False, "write into an existing run folder")
    line_thickness: int | None = option(None, "box line width in pixels (default: by image size)", low=1, high=1000)
    hide_labels: bool = option(False, "draw boxes only")
    hide_conf: bool = option(False, "draw names without confidences")
    half: bool = option(False, "float16 inference (CUDA)")
    max_pixels: int | None = option(None, _MAX_PIXELS, low=1)
    vid_stride: int = option(1, "use every N-th frame of a video", low=1)
    reconnect_timeout: float | None = option(
        None, "give up a live stream after so many seconds without a frame (default: never)", low=0
    )


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Write the fused model with its decoding in other formats, and check the files."""

    weights: str = option("", "checkpoint (.pt)")
    include: list[str] = option(("onnx",), "formats: {formats}")
    imgsz: int | tuple[int, int] | None = option(
        None,
        "image size in pixels, one number or height and width (default: what the weights were trained at, or 640)",
        "--img",
        "--img-size",
        low=1,
    )
    batch_size: int = option(1, "batch size of a static file", "--batch", low=1)
    dynamic: bool = option(False, "any batch size, height and width")
    nms_free: bool = option(False, "write the one-to-one branch of a head that has one, which needs no NMS")
    data: str | None = option(None, "check the file on this dataset's val images (default: rendered shapes)")
    device: str = option("cpu", "where the file is checked: cpu, or a CUDA index")
    opset: int = option(18, "ONNX operator set", low=13, high=23)


@dataclass(frozen=True, kw_only=True)
class FuseOptions(Options):
    """Reparameterize a model and report what was folded and how exactly."""

    weights: str | None = option(None, "checkpoint (.pt)")
    cfg: str | None = option(None, "model YAML, instead of weights")
    imgsz: int | None = option(
        None, "image size the GFLOPs are counted at (default: 640, classifiers 224)", "--img", "--img-size", low=1
    )
    output: str | None = option(None, "write the fused checkpoint here")
    json: bool = option(False, "print the report as JSON")


@dataclass(frozen=True, kw_only=True)
class InfoOptions(Options):
    """Show a model's layers, parameters, GFLOPs and strides, trained and fused."""

    weights: str | None = option(None, "checkpoint (.pt)")
    cfg: str | None = option(None, "model YAML, instead of weights")
    imgsz: int | None = option(
        None, "image size the GFLOPs are counted at (default: 640, classifiers 224)", "--img", "--img-size", low=1
    )
    json: bool = option(False, "print JSON")
    profile: bool = option(False, "measure milliseconds a row")


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(Options):
    """Name what images show: the five likeliest classes of a classifier."""

    weights: str = option("", "checkpoint of a classifier, or a published file of one of the backbones")
    source: str = option("", "image, folder, glob, list file, video, camera index, URL, - (what is piped in) or screen")
    imgsz: int | None = option(
        None, "side of the square input in pixels (default: 224, FastViT 256)", "--img", "--img-size", low=1
    )
    device: str = option("", "cpu, or a CUDA index; the first GPU if there is one")
    max_pixels: int | None = option(None, _MAX_PIXELS, low=1)
    vid_stride: int = option(1, "use every N-th frame of a video", low=1)
    json: bool = option(False, "print one JSON object a line")
