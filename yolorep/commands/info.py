"""The ``info`` command."""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from torch import nn

from yolorep.console import say
from yolorep.inference.open import load_network
from yolorep.models.detector import Detector
from yolorep.models.graph import Source
from yolorep.models.heads.raw import Raw
from yolorep.models.image_size import counted_size
from yolorep.models.network import Network
from yolorep.nn.flops import count_flops
from yolorep.nn.registry import ROW_TYPES
from yolorep.nn.reparam import count_parameters, fuse
from yolorep.options import InfoOptions

#: Runs a layer is timed over, after as many that are not counted.
PROFILE_RUNS = 10


def run(options: InfoOptions) -> dict[str, Any]:
    """Prints what a model is made of.

    Raises:
        UserError: if the model cannot be had.
    """
    model, _ = load_network(options.weights, options.cfg)
    size = counted_size(model, options.imgsz, quiet=options.json)
    # What is trained may have branches that inference does without.
    fused, report = fuse(model.for_inference() if isinstance(model, Detector) else model, image_size=size)
    layers = layer_table(model, fused, image_size=size)
    if options.profile:
        for layer, trained, deployed in zip(layers, profile(model, size), profile(fused, size), strict=True):
            layer |= {"ms": trained, "ms_fused": deployed}
    info = {
        "params": count_parameters(model),
        "params_fused": report.params_fused,
        "gflops": count_flops(model, model.example_input(size)).get("", 0) / 1e9,
        "gflops_fused": report.gflops_fused,
        "image_size": size,
        "strides": list(model.strides) if isinstance(model, Detector) else [],
        "names": list(model.names),
        "layers": layers,
    }
    if options.json:
        print(json.dumps(info))
    else:
        say(_table(info, options.weights or options.cfg or ""))
    return info


def layer_table(model: Network, fused: Network, *, image_size: int) -> list[dict[str, Any]]:
    """Per row of the model: what it reads and is, its output's shape, parameters and GFLOPs, trained and fused."""
    example = model.example_input(image_size)
    flops, flops_fused = count_flops(model, example), count_flops(fused, example)
    shapes = _output_shapes(model, image_size)
    return [
        {
            "index": index,
            "from": [*map(_plain, route)] if isinstance(route, tuple) else _plain(route),
            "module": _kind(layer),
            "shape": shapes[index],
            "params": count_parameters(layer),
            "params_fused": count_parameters(fused_layer),
            "gflops": flops.get(f"model.{index}", 0) / 1e9,
            "gflops_fused": flops_fused.get(f"model.{index}", 0) / 1e9,
        }
        for index, (layer, fused_layer, route) in enumerate(
            zip(model.model, fused.model, model.model.routes, strict=True)
        )
    ]


def profile(model: Network, image_size: int) -> list[float]:
    """Median milliseconds of each row for one image, on the model's device."""
    times: list[list[float]] = [[] for _ in model.model]
    starts = [0.0] * len(times)

    def clock() -> float:
        if next(model.parameters()).device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    hooks = []
    for index, layer in enumerate(model.model):

        def before(_module: nn.Module, _inputs: Any, index: int = index) -> None:
            starts[index] = clock()

        def after(_module: nn.Module, _inputs: Any, _output: Any, index: int = index) -> None:
            times[index].append(clock() - starts[index])

        hooks += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    image = model.example_input(image_size)
    with torch.inference_mode():
        for _ in range(2 * PROFILE_RUNS):
            model(image)
    for hook in hooks:
        hook.remove()
    return [sorted(runs[PROFILE_RUNS:])[PROFILE_RUNS // 2] * 1000 for runs in times]


@torch.inference_mode()
def _output_shapes(model: Network, image_size: int) -> list[list[int]]:
    shapes: list[list[int]] = []

    def note(_module: nn.Module, _inputs: Any, output: Any) -> None:
        tensor = output.levels[0] if isinstance(output, Raw) else output[-1] if isinstance(output, list) else output
        shapes.append(list(tensor.shape[1:]))

    hooks = [layer.register_forward_hook(note) for layer in model.model]
    model(model.example_input(image_size))
    for hook in hooks:
        hook.remove()
    return shapes


def _plain(source: Source) -> int | str:
    """What a layer reads, for JSON: the index of a layer, or ``1[0]``, the first feature of layer 1."""
    return source if isinstance(source, int) else str(source)


def _kind(layer: nn.Module) -> str:
    if type(layer) is nn.Sequential:
        return f"{len(layer)} x {type(layer[0]).__name__}"
    stages = {row.factory for row in ROW_TYPES.values() if row.repeats == "inside"}
    name = type(layer).__name__
    return f"{len(layer)} x {name}" if isinstance(layer, nn.Sequential) and type(layer) in stages else name


def _table(info: dict[str, Any], name: str) -> str:
    timed = "ms" in info["layers"][0]
    header = (
        f"{'row':>4} {'from':>14}  {'module':18}{'output':>18}{'parameters':>14}{'fused':>14}{'GFLOPs':>9}{'fused':>9}"
    )
    lines = [header + (f"{'ms':>9}{'fused':>9}" if timed else "")]
    for layer in info["layers"]:
        source, shape = str(layer["from"]).replace("'", ""), "x".join(map(str, layer["shape"]))
        line = (
            f"{layer['index']:4d} {source:>14}  {layer['module']:18}{shape:>18}{layer['params']:14,d}"
            f"{layer['params_fused']:14,d}{layer['gflops']:9.3f}{layer['gflops_fused']:9.3f}"
        )
        lines.append(line + (f"{layer['ms']:9.2f}{layer['ms_fused']:9.2f}" if timed else ""))
    lines.append(
        f"{name}: {info['params']:,} parameters, {info['params_fused']:,} fused; {info['gflops']:.2f} GFLOPs at "
        f"{info['image_size']} px, {info['gflops_fused']:.2f} fused; "
        + (f"strides {info['strides']}; " if info["strides"] else "")
        + f"{len(info['names'])} classes"
    )
    return "\n".join(lines)
