"""The numbers of an evaluation, for people and for files."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from yolorep.evaluation.evaluator import Evaluation
from yolorep.evaluation.metrics import METRICS

#: Classes listed without --verbose.
SHORT_TABLE = 20


def table(evaluation: Evaluation, *, images: int, every_class: bool = False) -> str:
    """The twelve numbers, the classes and the speed, for people."""
    coco = evaluation.coco
    lines = [f"{'class':24}{'images':>8}{'objects':>9}{'AP':>8}{'AP50':>8}{'AR100':>8}"]
    objects = sum(entry.objects for entry in coco.per_class)
    numbers = [coco.metrics[name] for name in ("AP", "AP50", "AR100")]
    lines.append(f"{'all':24}{images:8d}{objects:9d}" + "".join(f"{number:8.3f}" for number in numbers))
    shown = [entry for entry in coco.per_class if entry.objects]
    if len(shown) > SHORT_TABLE and not every_class:
        lines.append(f"({len(shown)} classes; --verbose lists them)")
    elif len(coco.per_class) > 1:
        lines += [
            f"{entry.name:24}{entry.images:8d}{entry.objects:9d}{entry.AP:8.3f}{entry.AP50:8.3f}{entry.AR100:8.3f}"
            for entry in shown
        ]
    for group in (METRICS[:6], METRICS[6:]):
        lines.append("  ".join(f"{name} {coco.metrics[name]:.4f}" for name in group))
    speed = ", ".join(f"{name} {value:.1f} ms" for name, value in evaluation.speed.items())
    return "\n".join([*lines, f"per image: {speed}"])


def metrics_dict(evaluation: Evaluation) -> dict[str, Any]:
    """What ``metrics.json`` holds: the twelve numbers, the classes, the speed in milliseconds an image."""
    return {
        **evaluation.coco.metrics,
        "per_class": [asdict(entry) for entry in evaluation.coco.per_class],
        "speed": evaluation.speed,
    }
