"""BatchNorms that are rows of their own: folded into the convolution row before or after them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from yolorep.errors import FuseError
from yolorep.models.graph import IMAGE, Graph, Part
from yolorep.nn.conv import Conv
from yolorep.nn.kernels import ConvKernel, transposed_then_bn
from yolorep.nn.reparam import FoldRecord, trainable_like

#: What passes every value on in eval mode.
PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)
#: Norms by what they measure in the image itself.
MEASURING = (nn.GroupNorm, nn.InstanceNorm2d, nn.LocalResponseNorm)


@dataclass
class _Step:
    """One module of the chain that rows and their repeats are; indices are of other steps.

    Attributes:
        path: in the graph.
        source: the step whose output alone it reads.
        readers: the steps that read its output.
    """

    path: str
    module: nn.Module
    source: int | None
    readers: list[int]


def fold_row_norms(graph: Graph) -> tuple[list[FoldRecord], dict[str, str]]:
    """Folds every BatchNorm row, in place, that alone reads a convolution, or that an unpadded convolution alone reads.

    Rows that only pass values on (dropout, ``nn.Identity``) are looked through.

    Returns:
        What was folded, and why the other norms that are rows stay, by their paths.
    """
    steps = _steps(graph)
    folds = []
    forward = [i for i, step in enumerate(steps) if isinstance(step.module, nn.BatchNorm2d)]
    for into, order in ((_before, forward), (_after, forward[::-1])):
        for index in order:
            step = steps[index]
            try:
                taker = into(steps, index) if isinstance(step.module, nn.BatchNorm2d) else None
            except FuseError:  # a geometry that the algebra cannot say
                taker = None
            if taker is None:
                continue
            path, conv, folded = taker
            graph.set_submodule(path, trainable_like(folded, conv, step.module))
            for other in steps:  # a row may be that convolution itself
                other.module = folded if other.path == path else other.module
            folds.append(FoldRecord(step.path, (path,)))
            step.module = nn.Identity()
            graph.set_submodule(step.path, step.module)
    reasons = {
        step.path: "no convolution ends right before it, or begins without padding right after it, for it alone"
        for step in steps
        if isinstance(step.module, nn.BatchNorm2d)
    }
    measuring = {
        step.path: f"{type(step.module).__name__} measures each image, and so is no linear map"
        for step in steps
        if isinstance(step.module, MEASURING)
    }
    return folds, reasons | measuring


def _steps(graph: Graph) -> list[_Step]:
    steps: list[_Step] = []
    ends: list[int] = []  # the last step of every row
    for number, (row, route) in enumerate(zip(graph, graph.routes, strict=True)):
        sources = route if isinstance(route, tuple) else (route,)
        rows = [source.layer if isinstance(source, Part) else source for source in sources]
        read = [ends[index] for index in rows if index != IMAGE]
        repeats = list(row.named_children()) if type(row) is nn.Sequential else [("", row)]
        for name, module in repeats:
            for step in set(read):
                steps[step].readers.append(len(steps))
            source = read[0] if read and type(route) is int else None
            steps.append(_Step(f"{number}.{name}" if name else str(number), module, source, []))
            read, route = [len(steps) - 1], number
        ends.append(len(steps) - 1)
    return steps


def _before(steps: list[_Step], index: int) -> tuple[str, nn.Module, nn.Module] | None:
    """The path of the convolution that a norm alone reads, itself, and what it becomes with the norm."""
    norm = steps[index].module
    assert isinstance(norm, nn.BatchNorm2d)
    source = steps[index].source
    while source is not None and len(steps[source].readers) == 1 and isinstance(steps[source].module, PASSING):
        source = steps[source].source
    if source is None or len(steps[source].readers) != 1:
        return None
    module, path = steps[source].module, steps[source].path
    if isinstance(module, Conv) and isinstance(module.act, nn.Identity):
        module, path = module.conv, f"{path}.conv"
    if isinstance(module, nn.Conv2d):
        return path, module, ConvKernel.of(module).then_bn(norm).to_conv()
    if isinstance(module, nn.ConvTranspose2d):
        return path, module, transposed_then_bn(module, norm)
    return None


def _after(steps: list[_Step], index: int) -> tuple[str, nn.Module, nn.Module] | None:
    """The path of the unpadded convolution that alone reads a norm, itself, and what it becomes with the norm."""
    norm = steps[index].module
    assert isinstance(norm, nn.BatchNorm2d)
    while True:
        readers = steps[index].readers
        if len(readers) != 1 or steps[readers[0]].source != index:
            return None
        index = readers[0]
        if not isinstance(steps[index].module, PASSING):
            break
    module, path = steps[index].module, steps[index].path
    if isinstance(module, Conv):
        module, path = module.conv, f"{path}.conv"
    if isinstance(module, nn.Conv2d):
        kernel = ConvKernel.of(module)
        if kernel.padding == (0, 0):
            return path, module, kernel.after_bn(norm).to_conv()
    return None
