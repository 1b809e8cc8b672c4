"""What people write who come from ultralytics: its names of options, and ``key=value`` instead of flags."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields

from yolorep.options import Options, flag

#: Its names of options that are offered under another one.
RENAMED = {
    "model": "weights",
    "batch": "batch_size",
    "conf": "conf_thres",
    "iou": "iou_thres",
    "split": "task",
    "format": "include",
    "show": "view_img",
    "line_width": "line_thickness",
}
#: Its modes, as it calls them, and the commands.
MODES = {"train": "train", "val": "val", "predict": "detect", "export": "export"}

_HYP = "write {key} into a copy of cfg/hyp/scratch-low.yaml and pass it with --hyp"
_BOXES = "leave it out; only boxes are detected"
_DEFAULT = "leave it out; it is always done"
_NOT = "leave it out; it is not done"
_VAL = "leave it out; training evaluates as yolorep val does"
_AFTER = "leave it out; NMS runs after the file"
_RECT = "leave it out; rectangles are the default"

#: Its options that a command does not offer, and what to do instead.
NOT_OFFERED: dict[str, dict[str, str]] = {
    "train": {
        **dict.fromkeys(
            (
                "lr0", "lrf", "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr", "box",
                "cls", "dfl", "nbs", "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear",
                "perspective", "flipud", "fliplr", "mosaic", "mixup", "close_mosaic",
            ),
            _HYP,
        ),
        **dict.fromkeys(("pose", "kobj", "overlap_mask", "mask_ratio", "copy_paste", "copy_paste_mode"), _BOXES),
        **dict.fromkeys(("bgr", "cutmix", "auto_augment", "erasing", "dropout", "compile", "profile"), _NOT),
        **dict.fromkeys(("save", "deterministic", "plots", "verbose"), _DEFAULT),
        **dict.fromkeys(("conf", "iou", "max_det", "split"), _VAL),
        "time": "use --epochs",
        "classes": "use labels and a data YAML of those classes; --single-cls makes all of them one",
        "pretrained": "use --weights",
        "amp": "use --precision",
        "fraction": "list fewer images in a list file, and name that in the data YAML",
        "val": "use --noval to evaluate only after the last epoch",
    },
    "val": {
        "plots": _DEFAULT,
        "visualize": _DEFAULT,
        "rect": f"{_RECT}, --no-rect does without",
        "agnostic_nms": "leave it out; the AP is counted class by class",
        "classes": "leave it out; every class has its own AP in metrics.json",
        "compile": _NOT,
    },
    "detect": {
        "save": f"{_DEFAULT}, --nosave does without",
        **dict.fromkeys(("batch", "batch_size"), "leave it out; yolorep.Predictor has a batch_size"),
        "rect": _RECT,
        "show_labels": "use --hide-labels",
        "show_conf": "use --hide-conf",
        "show_boxes": "use --nosave with --save-txt, --save-csv or --save-json",
        "save_frames": "use --save-crop, or yolorep.Predictor's stream()",
        "stream": "leave it out; yolorep.Predictor has stream()",
        "stream_buffer": "leave it out; of a live stream the newest frame is taken",
        "retina_masks": _BOXES,
        "embed": "use a forward hook on the model",
        "verbose": _DEFAULT,
        "compile": _NOT,
    },
    "export": {"fraction": "leave it out; files are float32", **dict.fromkeys(("conf", "iou"), _AFTER)},
}  # fmt: skip


def in_our_words(command: str, name: str, options: type[Options]) -> str | None:
    """What a flag is called here that ultralytics calls ``name``, or what to do instead; None if it has none such."""
    key = name.lstrip("-").replace("-", "_")
    known = {field.name for field in fields(options)}
    if RENAMED.get(key) in known:
        also = ", or --cfg for a YAML" if key == "model" and "cfg" in known else ""
        return f"is {flag(RENAMED[key])} here{also}"
    advice = NOT_OFFERED.get(command, {}).get(key)
    return f"is not offered: {advice.format(key=key)}" if advice else None


def as_flags(command: str, words: Sequence[str], commands: Mapping[str, type[Options]]) -> str | None:
    """The command line that ``key=value`` words stand for; None if there are none among ``words``."""
    pairs = [word.split("=", 1) for word in words if re.fullmatch(r"[A-Za-z]\w*=.*", word, re.DOTALL)]
    if not pairs:
        return None
    mode = next((MODES[word] for word in words if word in MODES), command)
    known = {field.name: field for field in fields(commands[mode])}
    written, left_out = [], []
    for key, value in pairs:
        name = "cfg" if key == "model" and "cfg" in known and value.endswith((".yaml", ".yml")) else key
        name = RENAMED[name] if RENAMED.get(name) in known else name
        if name not in known:
            left_out.append(key)
        elif known[name].default is False:
            written += [flag(name)] if value.lower() in ("true", "1") else []
        else:
            several = re.fullmatch(r"[(\[]?(\d+(?: *, *\d+)*)[)\]]?", value)
            written += [flag(name), " ".join(re.split(r" *, *", several[1])) if several else shlex.quote(value)]
    line = " ".join(["yolorep", mode, *written])
    return f"write {line}" + (f" (without {', '.join(left_out)})" if left_out else "")
