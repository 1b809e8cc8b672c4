"""What fusing brings: latency of a model before and after ``fuse()``, in PyTorch, in one run.

The two forms take turns, so that whatever else the machine does meets both.

    python benchmarks/reparam.py --cfg cfg/yolov5s_mobileone.yaml --imgsz 320 640 --batch-size 1 8
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time

import torch

from yolorep.engine.build import load_model
from yolorep.models.detector import Detector, build_model
from yolorep.nn.reparam import fuse


def main() -> int:
    """Runs the measurements and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", nargs="+", default=[], help="model YAMLs (random weights: speed does not care)")
    parser.add_argument("--weights", nargs="+", default=[], help="checkpoints")
    parser.add_argument("--imgsz", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=6.0, help="measured for each line")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__}\n")
    print("| model | px | batch | unfused ms | fused ms | ratio |\n|---|---|---|---|---|---|")
    models = [(name, build_model(name).eval()) for name in args.cfg] + [
        (name, load_model(name)) for name in args.weights
    ]
    for name, model in models:
        fused, _ = fuse(model)
        for size in args.imgsz:
            for batch in args.batch_size:
                unfused_ms, fused_ms = compare(model, fused, size=size, batch=batch, seconds=args.seconds)
                ratio = unfused_ms / fused_ms
                print(f"| {name} | {size} | {batch} | {unfused_ms:.1f} | {fused_ms:.1f} | {ratio:.2f} |", flush=True)
    return 0


@torch.inference_mode()
def compare(model: Detector, fused: Detector, *, size: int, batch: int, seconds: float) -> tuple[float, float]:
    """Median milliseconds of the unfused and of the fused model, taking turns."""
    images = torch.rand(batch, 3, size, size).to(memory_format=torch.channels_last)
    forms = [form.to(memory_format=torch.channels_last) for form in (model, fused)]
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 8:
        for form, measured in zip(forms, times, strict=True):
            start = time.perf_counter()
            form(images)
            measured.append((time.perf_counter() - start) * 1000)
    unfused_ms, fused_ms = (statistics.median(measured[2:]) for measured in times)  # the first runs warm up
    return unfused_ms, fused_ms


if __name__ == "__main__":
    sys.exit(main())
