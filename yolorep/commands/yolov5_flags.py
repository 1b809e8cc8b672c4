"""Flags of YOLOv5 that are not offered, and what to do instead."""

from __future__ import annotations

_NO_UPLOAD = "leave it out; nothing is uploaded"
_WANDB = "use --log wandb, and W&B's own variables such as WANDB_ENTITY"
_SEARCH = "try values in a copy of cfg/hyp/scratch-low.yaml and pass it with --hyp"
_NMS = "leave it out; NMS runs after the file"
_FLOAT32 = "leave it out; files are float32"
_ONNX = "use --include onnx"

#: What to do about several values of a flag that takes one.
ONE_VALUE = {
    "--weights": "; name one file: models are not put together into an ensemble",
    "--source": "; put a pattern in quotes, '*.jpg', or name a folder, or a list file with one path a line",
}
#: YOLOv5's flags that a command does not offer, and what to do instead.
REPLACED: dict[str, dict[str, str]] = {
    "train": {
        "--evolve": _SEARCH,
        "--evolve_population": _SEARCH,
        "--resume_evolve": _SEARCH,
        "--image-weights": "leave it out; every image is drawn once an epoch",
        "--quad": "leave it out, or lower --batch-size",
        "--noplots": "leave it out; plots are drawn once, at the end",
        "--bucket": _NO_UPLOAD,
        "--upload_dataset": _NO_UPLOAD,
        "--entity": _WANDB,
        "--bbox_interval": _WANDB,
        "--artifact_alias": _WANDB,
        "--ndjson-console": "read results.csv in the run folder",
        "--ndjson-file": "read results.csv in the run folder",
        "--adam": "use --optimizer Adam",
        "--linear-lr": "leave it out; the learning rate falls linearly unless --cos-lr is given",
        "--cache-images": "use --cache",
        "--notest": "use --noval",
        "--logdir": "use --project",
        "--local_rank": "leave it out; training uses one process",
    },
    "val": {
        "--save-hybrid": "use --save-txt; labels mixed into predictions would inflate the AP",
        "--dnn": "leave it out; .onnx files run in onnxruntime",
    },
    "detect": {
        "--dnn": "leave it out; .onnx files run in onnxruntime",
        "--output": "use --project and --name",
        "--fourcc": "leave it out; videos are written as MP4",
        "--visualize": "use yolorep info --profile for the layers, or a forward hook for their features",
        "--update": "leave it out; every file is read as it is",
        "--save-format": "leave it out; --save-csv and --save-json write pixels, --save-txt shares of the image",
    },
    "export": {
        "--half": _FLOAT32,
        "--int8": _FLOAT32,
        "--per-tensor": _FLOAT32,
        "--grid": "leave it out; boxes are always decoded in the file",
        "--inplace": "leave it out; heads never write into their inputs",
        "--keras": _ONNX,
        "--optimize": "use --include torchscript",
        "--simplify": "leave it out; ONNX files are optimized as they are written",
        "--mlmodel": _ONNX,
        "--workspace": _ONNX,
        "--verbose": "leave it out; what went wrong is said in one line",
        "--cache": "leave it out; it belongs to a format that is not offered",
        "--nms": _NMS,
        "--agnostic-nms": _NMS,
        "--topk-per-class": _NMS,
        "--topk-all": _NMS,
        "--iou-thres": _NMS,
        "--conf-thres": _NMS,
    },
}
