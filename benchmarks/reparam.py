"""What fusing brings: latency of a model before and after ``fuse()``, beside timm's fused network of the same weights.

All forms of a model take turns, so that whatever else the machine does meets them all. Published classifiers
(``cfg/<family>/<variant>-cls.yaml``) are also measured as timm fuses them; timm leaves BatchNorms in FastViT.

    python benchmarks/reparam.py --imgsz 320 640 --batch-size 1 8
    python benchmarks/reparam.py --cfg cfg/yolov5s_mobileone.yaml --engine pytorch
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from yolorep.formats.onnx import import_onnxruntime
from yolorep.inference.open import load_model
from yolorep.models.classifier import Classifier
from yolorep.models.detector import build_network
from yolorep.models.heads.raw import Raw
from yolorep.nn.conv import Normalize
from yolorep.nn.reparam import fuse
from yolorep.weights.layouts import timm_names

SMALL = ("mobileone/s0", "mobileone/s1", "repvgg/a0", "fastvit/t8", "fastvit/sa12")
ENGINES = ("pytorch", "onnxruntime")
#: Largest difference of the outputs of a model's forms, relative to the largest output.
TOLERANCE = 1e-3


def main() -> int:
    """Runs the measurements and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", nargs="+", default=[], help="model YAMLs (random weights: speed does not care)")
    parser.add_argument("--weights", nargs="+", default=[], help="checkpoints of detectors")
    parser.add_argument("--imgsz", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--engine", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=6.0, help="measured for each line")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    names = args.cfg or ([] if args.weights else [f"cfg/{variant}-cls.yaml" for variant in SMALL])
    models = [(name, build_network(name).eval()) for name in names] + [
        (name, load_model(name)) for name in args.weights
    ]
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__}, ", end="")
    print(f"onnxruntime {import_onnxruntime().__version__}; medians in ms\n")
    print("| model | engine | px | batch | unfused | fused | ratio | timm fused | timm / ours |\n" + "|---" * 9 + "|")
    for name, model in models:
        forms: dict[str, nn.Module] = {"unfused": model, "fused": fuse(model)[0]}
        if isinstance(model, Classifier):
            forms["timm"] = timm_fused(name, model)
        for engine in args.engine:
            for size in args.imgsz:
                for batch in args.batch_size:
                    ms = measure(forms, torch.rand(batch, 3, size, size), engine, args.threads, args.seconds)
                    timm = f"{ms['timm']:.1f} | {ms['timm'] / ms['fused']:.2f}" if "timm" in ms else "– | –"
                    print(
                        f"| {name.removeprefix('cfg/').removesuffix('.yaml')} | {engine} | {size} | {batch} "
                        f"| {ms['unfused']:.1f} | {ms['fused']:.1f} | {ms['unfused'] / ms['fused']:.2f} | {timm} |",
                        flush=True,
                    )
    return 0


def timm_fused(name: str, model: Classifier) -> nn.Module:
    """Timm's network with the weights of ``model``, fused by timm, on images in 0..1 as ours."""
    import timm
    from timm.utils.model import reparameterize_model

    family, variant = Path(name.removesuffix("-cls.yaml")).parts[-2:]
    network = timm.create_model(f"{family}_{variant}")
    state = model.state_dict()
    network.load_state_dict({theirs: state[ours] for ours, theirs in timm_names(model).items()})
    return nn.Sequential(Normalize(), reparameterize_model(network.eval())).eval()


@torch.inference_mode()
def measure(forms: dict[str, nn.Module], images: Tensor, engine: str, threads: int, seconds: float) -> dict[str, float]:
    """Median milliseconds of every form, taking turns; raises if they do not compute the same."""
    runs: dict[str, Callable[[], Tensor]] = {}
    for name, form in forms.items():
        runs[name] = _eager(form, images) if engine == "pytorch" else _onnx(form, images, threads)
    reference = runs["unfused"]()
    for name, run in runs.items():
        error = float((run() - reference).abs().max() / (1 + reference.abs().max()))
        if not error < TOLERANCE:
            raise AssertionError(f"{name} differs from the unfused model by {error:.1e}")
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = random.Random(0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["fused"]) < 8:
        # In an order of its own every time: what ran just before leaves its caches and its memory behind.
        for name in order.sample(sorted(runs), len(runs)):
            start = time.perf_counter()
            runs[name]()
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(measured[2:]) for name, measured in times.items()}  # the first runs warm up


def _first(output: Tensor | Raw) -> Tensor:
    return output.levels[0] if isinstance(output, Raw) else output


def _eager(form: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    form = form.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    return lambda: _first(form(images))


def _onnx(form: nn.Module, images: Tensor, threads: int) -> Callable[[], Tensor]:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        path = Path(folder) / "form.onnx"
        with torch.inference_mode(False), torch.no_grad():
            program = torch.onnx.export(
                form.to(memory_format=torch.contiguous_format), (images,), dynamo=True, verbose=False
            )
        assert program is not None
        program.save(path)
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


if __name__ == "__main__":
    sys.exit(main())
