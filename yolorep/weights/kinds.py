"""What a file is that is no checkpoint of ours, in words that say what to do with it. Nothing in it is run."""

from __future__ import annotations

import json
import re
import struct
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from yolorep.weights.archive import MAX_PICKLE_BYTES, Refused, check_table, is_legacy, open_archive

#: Of a file's beginning, in which it is told by its first bytes.
_HEAD_BYTES = 1024
_MAX_HEADER = 16 << 20
#: What to do with a model that is not built here.
OTHERS = "train a model of --cfg, or start from weights of YOLOv5"
_DETECTORS_ONLY = "only detectors run here: take the file of the same name without"

#: First bytes, and what has them.
_BEGINNINGS: tuple[tuple[str, str], ...] = (
    (r"version https://git-lfs", "a Git LFS pointer, not the file it stands for; fetch that with 'git lfs pull'"),
    (r"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body)", "a web page, so the download failed; get the file"),
    (r"\s*<\?xml[^>]*>\s*<net", "an OpenVINO model; use the checkpoint (.pt) that it was made from"),
    (r"\s*[{\[]", "a JSON text, probably an error in place of the file; get the file of weights"),
    (r"\s*<", "a text with tags (XML or HTML), probably a failed download; get the file itself"),
    (r"\x08[\x01-\x20](?:\x12|\x1a|:|B)", "an ONNX model; rename it to end in .onnx"),
    (r"\x89HDF\r\n", "an HDF5 file (Keras); use weights for PyTorch"),
    (r".{4}TFL3", "a TensorFlow Lite model; use weights for PyTorch"),
    (r"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "a compressed archive; unpack it"),
    (r"\x93NUMPY", "a numpy array; use weights for PyTorch"),
    (r"[pf]trt", "a TensorRT engine; use the checkpoint (.pt) that it was made from"),
    (r"7767517", "an ncnn model; use the checkpoint (.pt) that it was made from"),
    (r"\x00\x00\x00\x00[\x01\x02]\x00\x00\x00", "weights of Darknet; use weights for PyTorch"),
    (r"\x89PNG|\xff\xd8\xff|GIF8|RIFF|BM.{4}\x00{4}", "an image or a video; give it as --source"),
    (r"%PDF", "a PDF document; get the file of weights"),
    (r"\x7fELF|MZ", "a program; get the file of weights"),
)
#: Classes that a pickle names, ``module\nclass``, and what holds them; the first that is found counts.
_CLASSES: tuple[tuple[str, str], ...] = (
    (r"ultralytics\.nn\.\S*\n(?P<model>\w+)", ""),  # told more exactly below
    (r"models\.yolo\n(?:Segment|SegmentationModel)\n", f"a YOLOv5 segmentation model; {_DETECTORS_ONLY} -seg"),
    (r"models\.yolo\nClassificationModel\n", f"a YOLOv5 classification model; {_DETECTORS_ONLY} -cls"),
    (r"models\.common\nClassify\n", f"a YOLOv5 classification model; {_DETECTORS_ONLY} -cls"),
    (r"models\.yolo\n(?:IDetect|IAuxDetect|IKeypoint|IBin)\n", f"a YOLOv7 model; {OTHERS}"),
    (r"models\.yolo\n(?:Dual|Triple|D)D?Detect\n", f"a YOLOv9 model; {OTHERS}"),
    (r"models\.models\nDarknet\n", f"a YOLOR or Scaled-YOLOv4 model; {OTHERS}"),
    (r"yolov6\.", f"a YOLOv6 model; {OTHERS}"),
    (r"yolox\.", f"a YOLOX model; {OTHERS}"),
    (r"super_gradients\.", f"a model of SuperGradients (YOLO-NAS); {OTHERS}"),
    (r"mm(?:det|engine|cv|yolo)\.", f"a checkpoint of MMDetection; {OTHERS}"),
    (r"detectron2\.", f"a model of Detectron2; {OTHERS}"),
    (r"torchvision\.models\.", f"a whole pickled torchvision model; {OTHERS}"),
    (
        r"timm\.",
        "a whole pickled timm model; of a MobileOne, RepVGG or FastViT save the state_dict() and give that to "
        f"--backbone-weights, else {OTHERS}",
    ),
    (r"transformers\.", f"a whole pickled model of Hugging Face transformers; {OTHERS}"),
)
_TASKS = {"Segmentation": "segmentation", "Pose": "pose", "OBB": "oriented boxes", "Classification": "classification"}
_LIGHTNING = f"a PyTorch Lightning checkpoint; {OTHERS}"
#: Names of tensors, and whose they are.
_TENSORS: tuple[tuple[str, str], ...] = (
    (r"(?m)^model\.\d+\.(?:proto|cv4\.0\.0)\.", "a YOLO model of masks, poses or rotated boxes"),
    (r"(?m)^model\.\d+\.linear\.weight$", "a classifier of YOLO"),
    (r"(?m)^model\.\d+\.anchors$", "a YOLOv5 model"),
    (r"(?m)^(?:model\.)?model\.\d+\.(?:dfl\.|cv[23]\.0\.0\.|one2one_cv)", "an ultralytics model (YOLOv8 or later)"),
    (r"(?m)^(?:module\.)?backbone\.(?:backbone\.)?(?:dark2|stem)\.", "a YOLOX model"),
    (r"(?m)^(?:bbox_head|rpn_head|roi_head)\.", "a model of MMDetection"),
    (r"(?m)^(?:backbone\.(?:body|features)|roi_heads)\.", "a torchvision detector"),
    (
        r"(?m)(?:dec_bbox_head|enc_score_head|class_embed|bbox_embed|bbox_predictor)\.",
        "a DETR (RT-DETR, say)",
    ),
    (r"(?m)^(?:module\.)?layer1\.0\.(?:conv1|bn1)\.", "a ResNet"),
    (r"(?m)^(?:module\.)?features\.0\.", "a torchvision classifier"),
    (r"(?m)^(?:model\.)?blocks?\.0\.", "a classifier or transformer"),
)


def kind_of_file(path: Path) -> str:
    """What a file is and what to do, told by its first bytes and, if torch wrote it, the classes it names.

    Returns:
        Such as ``a web page, so the download failed; get the file``; empty if it may be a checkpoint.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if not head.strip(b"\0"):
            return "nothing but zeros, so it was not copied whole" if head else "an empty file"
        if is_legacy(path) or (head.startswith(b"PK") and zipfile.is_zipfile(path)):
            return _kind_of_torch_file(path)
    except (OSError, zipfile.BadZipFile):
        return ""
    for pattern, what in _BEGINNINGS:
        if re.match(pattern.encode("latin1"), head, re.IGNORECASE | re.DOTALL):
            return what
    if head[257:262] == b"ustar" or tarfile.is_tarfile(path):
        return "a tar archive; unpack it"
    if is_safetensors(path):
        return ""
    if head.startswith(b"PK"):
        return "a zip file that is cut off, so it was not copied whole"
    if re.match(rb"\x80[\x02-\x05]", head):
        return "a plain pickle, which could run anything and is not read; save it with torch.save"
    if not re.search(rb"[^\t\n\r -~]", head):
        return "a text file; get the file of weights"
    return "something else (not a file that torch.save writes), or a damaged one"


def kind_of_pickle(data: bytes) -> str:
    """What pickled classes stand for; empty if nobody's that are known here."""
    for pattern, what in _CLASSES:
        if found := re.search(b"c(?:[\\w.]+\\.)?" + pattern.encode(), data):
            return what or _ultralytics(found["model"].decode(), data)
    return _LIGHTNING if b"pytorch-lightning_version" in data else ""


def kind_of_tensors(names: Iterable[str]) -> str:
    """Whose tensors have these names, and what to do with them."""
    names = list(names)
    text = "\n".join(names)
    for pattern, whose in _TENSORS:
        if re.search(pattern, text):
            return f"tensors of {whose} without its layers; {OTHERS}"
    return f"{len(names)} tensors without the layers they belong to, such as {names[0][:80]!r}; {OTHERS}"


def _ultralytics(model: str, data: bytes) -> str:
    number = re.search(rb"(?i)(?<![a-z])yolov?(\d+)[\w-]*\.yaml", data)
    name = "RT-DETR" if model.startswith("RTDETR") else "YOLO"
    if number and name == "YOLO":
        version = int(number[1][:3])
        name = "YOLOv5u" if version == 5 else f"YOLO{'v' if version < 11 else ''}{version}"
    task = next((task for sign, task in _TASKS.items() if model.startswith(sign)), "detection")
    return (
        f"an ultralytics {name} {task} model, whose layers are not built here; run it with ultralytics, {OTHERS} "
        "(yolov5n.pt, not yolov5nu.pt)"
    )


def _kind_of_torch_file(path: Path) -> str:
    try:
        if is_legacy(path):
            with path.open("rb") as file:
                return kind_of_pickle(file.read(MAX_PICKLE_BYTES))
        check_table(path)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            return "an archive of numpy arrays; use weights for PyTorch"
        if any(name.endswith("/archive_format") for name in names):
            return "a program of torch.export; use the checkpoint (.pt) that it was made from"
        if not any(name.endswith("/data.pkl") for name in names):
            listed = ", ".join(name[:40] for name in names[:2])
            return f"a zip archive of something else ({listed or 'nothing'}); unpack it"
        if any(name.endswith("/constants.pkl") for name in names):
            return "a TorchScript model; rename it to end in .torchscript"
        with open_archive(path) as opened:
            return kind_of_pickle(opened.pickles.read())
    except (Refused, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError):
        return ""  # what is wrong is told by who reads it


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as those of the safetensors library do."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= _MAX_HEADER:
            return False
        try:
            return isinstance(json.loads(file.read(length)), dict)
        except (ValueError, RecursionError):
            return False
