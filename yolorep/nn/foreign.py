"""Backbones from other people's libraries as rows: timm's and torchvision's.

Their weights are never downloaded: a row builds the network with fresh ones. Trained ones come from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from yolorep.errors import suggest
from yolorep.nn.conv import ConvBN
from yolorep.nn.grouping import LayerTracer, find_pairs
from yolorep.nn.meta import run_on_meta
from yolorep.nn.registry import register, yields

#: Height and width of the image that features are measured on: multiples of every stride, and different, so that a map
#: with channels last is no map.
PROBE = (256, 384)


class ForeignBackbone(nn.Module):
    """A network of another library that gives several features of an image.

    Shape: (batch, 3, h, w) to a list of (batch, out_channels[i], h / strides[i], w / strides[i]).

    Fusing folds every BatchNorm that alone reads what a convolution makes; other norms stay, each with its reason.

    Args:
        name: of the network, for messages.
        out_indices: the features to give; ascending.

    Attributes:
        out_channels, strides: of the features.
    """

    out_channels: tuple[int, ...]
    strides: tuple[int, ...]
    #: Classes that are a BatchNorm, with at most ``drop`` and ``act`` after it.
    norms: tuple[type[nn.Module], ...] = (nn.BatchNorm2d,)

    def __init__(self, name: str, out_indices: Sequence[int]) -> None:
        super().__init__()
        self.name = name
        whole = isinstance(out_indices, list | tuple) and all(type(index) is int for index in out_indices)
        if not whole or not out_indices or any(a >= b for a, b in pairwise([-1, *out_indices])):
            raise ValueError(f"out_indices: expected ascending whole numbers such as [1, 2, 3], found {out_indices!r}")

    def example_input(self, image_size: int | None = None) -> Tensor:
        """A random image: square of ``image_size``, or small and not square."""
        largest = max(self.strides)
        height, width = (2 * largest, 3 * largest) if image_size is None else (image_size, image_size)
        like = next(self.parameters())
        generator = torch.Generator().manual_seed(0)  # of its own: nobody's random numbers are shifted
        return torch.rand(1, 3, height, width, generator=generator).to(like)

    def group_(self) -> dict[str, str]:
        """Joins convolutions and the BatchNorms after them; see :class:`yolorep.nn.reparam.Groupable`."""
        pairs, reasons = find_pairs(self, self._tracer(), norms=self.norms)
        for pair in pairs:
            conv, norm = self.get_submodule(pair.conv), self.get_submodule(pair.norm)
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            self.set_submodule(pair.conv, ConvBN.of(conv, norm))
            self.set_submodule(pair.norm, _taken_off(norm))
        return reasons

    def _tracer(self) -> LayerTracer:
        return LayerTracer()

    def _measure(self) -> None:
        """Finds the features' channels and strides.

        Raises:
            ValueError: if they are no maps of the image, or images of any multiple of the largest stride will not do.
        """
        self.out_channels, self.strides = self._maps(PROBE)
        largest = max(self.strides)
        self._maps((2 * largest, 3 * largest))

    def _maps(self, size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channels and strides of the features of an image of that size."""
        shapes = [tuple(feature.shape) for feature in _try_out(self, self.name, size)]
        strides = tuple(_stride(shape, size) for shape in shapes)
        if not all(strides):
            raise ValueError(
                f"{self.name}: expected maps (batch, channels, height / stride, width / stride) of an image of "
                f"{size[0]}x{size[1]} pixels, found {shapes}"
            )
        return tuple(shape[1] for shape in shapes), strides


@register(repeats="once", channels=yields)
class Timm(ForeignBackbone):
    """A network of timm (Apache-2.0): ``[name, {out_indices: [i, …]}]``, with the indices of its ``features_only``.

    Weights are never downloaded.
    """

    def __init__(self, name: str, out_indices: Sequence[int]) -> None:
        super().__init__(name, out_indices)
        try:
            import timm
            from timm.layers import BatchNormAct2d
        except ModuleNotFoundError as error:
            raise ValueError("needs timm: pip install 'yolorep[timm]'") from error
        check_known(name, timm.list_models(), library="timm")
        try:
            self.net = _built(
                lambda: timm.create_model(name, pretrained=False, features_only=True, out_indices=tuple(out_indices))
            )
        except (AssertionError, IndexError) as error:
            raise ValueError(f"out_indices: {name} has no such features, found {list(out_indices)}: {error}") from error
        if any(module._forward_hooks or module._forward_pre_hooks for module in self.net.modules()):
            raise ValueError(f"{name}: timm takes its features by hooks, which copies of a model lose; try another")
        self.norms = (nn.BatchNorm2d, BatchNormAct2d)
        self._measure()

    def forward(self, image: Tensor) -> list[Tensor]:
        return list(self.net(image))

    def _tracer(self) -> LayerTracer:
        from timm.models import get_notrace_functions, get_notrace_modules

        return LayerTracer(get_notrace_modules(), get_notrace_functions())


@register(repeats="once", channels=yields)
class TorchVision(ForeignBackbone):
    """A classifier of torchvision (BSD) without its end: ``[name, {out_indices: [i, …]}]``.

    Feature i is the last output of the i-th stride that the network has: of a ResNet, stride 2 is feature 0, stride 32
    feature 4. Weights are never downloaded. Names of tensors are torchvision's, after ``net.``.
    """

    def __init__(self, name: str, out_indices: Sequence[int]) -> None:
        super().__init__(name, out_indices)
        from torchvision import models

        check_known(name, models.list_models(module=models), library="torchvision")
        self.net = _built(lambda: models.get_model(name, weights=None))
        stages = _stages(self.net, name)
        ends = {stride: part for part, stride in stages.items() if stride}
        if out_indices[-1] >= len(ends):
            raise ValueError(
                f"out_indices: {name} has features {list(range(len(ends)))} of strides {list(ends)}, "
                f"found {list(out_indices)}"
            )
        self._ends = [list(ends.values())[index] for index in out_indices]
        parts = list(stages)
        self._parts = parts[: parts.index(self._ends[-1]) + 1]
        _keep_only(self.net, self._parts)
        self._measure()

    def forward(self, image: Tensor) -> list[Tensor]:
        features = []
        for part in self._parts:
            image = self.net.get_submodule(part)(image)
            if part in self._ends:
                features.append(image)
        return features


def check_known(name: Any, known: Sequence[str], *, library: str) -> None:
    """Raises ValueError, with the closest name, unless the library has a network of that name."""
    if name not in known:
        raise ValueError(f"expected the name of one of {library}'s networks, found {name!r}{suggest(str(name), known)}")


def _try_out(network: nn.Module, name: str, size: tuple[int, int]) -> Any:
    """What a network makes of an image, in shapes.

    Raises:
        ValueError: if it takes none of that size.
    """
    try:
        return run_on_meta(network, (1, 3, *size))
    except (AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{name}: expected that images of {size[0]}x{size[1]} pixels do, found {reason!r}; take a network for "
            "images of any size, and its coarsest feature too"
        ) from error


def _built(make: Callable[[], nn.Module]) -> nn.Module:
    """``make()``, also on the meta device, where the code of some networks cannot run."""
    try:
        return make()
    except RuntimeError:
        device = torch.get_default_device()
        if device.type != "meta":
            raise
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            return make().to(device)


def _stride(shape: Sequence[int], image: tuple[int, int]) -> int:
    """Pixels per cell of a map of an image of that size; 0 if a tensor of this shape is none."""
    if len(shape) != 4 or shape[2] < 2 or image[0] % shape[2] or image[0] * shape[3] != image[1] * shape[2]:
        return 0
    return image[0] // shape[2]


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Children and, of those that are sequences, theirs."""
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential):
            yield from ((f"{name}.{part}", module) for part, module in child.named_children())
        else:
            yield name, child


def _stages(network: nn.Module, name: str) -> dict[str, int]:
    """The parts that a network runs first, each on what the one before made, and the strides of their outputs.

    Stride 0 means that it is no map of the image.
    """
    strides: dict[str, int] = {}
    image: Any = None

    def first(_network: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal image
        (image,) = inputs

    def note(part: str, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal image
        if len(inputs) == 1 and inputs[0] is image:
            image = output
            strides[part] = _stride(output.shape, PROBE)

    hooks = [network.register_forward_pre_hook(first)]
    hooks += [module.register_forward_hook(partial(note, part)) for part, module in _parts(network)]
    try:
        _try_out(network, name, PROBE)
    finally:
        for hook in hooks:
            hook.remove()
    return strides


def _keep_only(network: nn.Module, parts: Sequence[str]) -> None:
    """Removes all other parts."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Sequential):
            for part in [part for part, _ in child.named_children() if f"{name}.{part}" not in parts]:
                delattr(child, part)
        if name not in parts and not (isinstance(child, nn.Sequential) and len(child)):
            delattr(network, name)


def _taken_off(norm: Any) -> nn.Module:
    """What else a BatchNorm of others' making does, taken off it and put into a module of its own."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    rest = nn.Sequential(norm.drop, norm.act)
    norm.drop, norm.act = nn.Identity(), nn.Identity()
    return rest
