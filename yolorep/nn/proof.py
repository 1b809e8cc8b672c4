"""What ``fuse()`` compares: a unit with what replaces it, and a model with its fused form."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolorep.errors import FuseError

#: Largest error of a replaced unit in float64, relative to 1 + its largest intermediate value.
UNIT_TOLERANCE = 1e-9


@torch.no_grad()
def compare_unit(name: str, before: nn.Module, after: nn.Module, image: Tensor) -> float:
    """The largest float64 error of ``after``, relative to 1 + the largest value inside ``before``.

    Raises:
        FuseError: if it is above the tolerance.
    """
    largest = 0.0

    def watch(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal largest
        largest = max([largest, *(float(tensor.abs().max()) for tensor in _tensors(output) if tensor.numel())])

    before = copy.deepcopy(before)
    for module in before.modules():
        module.register_forward_hook(watch)
    expected, found = _tensors(before(image)), _tensors(after(image))
    shapes, fused_shapes = ([tuple(tensor.shape) for tensor in tensors] for tensors in (expected, found))
    if shapes != fused_shapes:
        raise FuseError(f"{name or 'model'}: output is {shapes}, fused {fused_shapes}")
    error = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)) / (1 + largest)
    if not error <= UNIT_TOLERANCE:
        raise FuseError(
            f"{name or 'model'}: {type(before).__name__} fused wrongly, relative error {error:.1e} in float64 "
            f"(at most {UNIT_TOLERANCE:.0e})"
        )
    return error


def noise(unit: nn.Module, in_channels: int) -> Tensor:
    """Random images in float64, of odd sides and larger than any window of the unit."""
    window = max(_extent(module) for module in unit.modules())
    # A generator of its own: proving must not shift anybody's random numbers.
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, in_channels, 2 * window + 1, 2 * window + 3, dtype=torch.float64, generator=generator)


def _extent(module: nn.Module) -> int:
    """Pixels that a convolution's window spans, at least 1."""
    if not isinstance(module, nn.Conv2d):
        return 1
    return max(d * (k - 1) + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True))


@torch.no_grad()
def compare_models(model: nn.Module, fused: nn.Module, reference: nn.Module, *, image: Tensor) -> tuple[float, float]:
    """Largest output errors (fused, unfused) to the float64 reference, for one image.

    Raises:
        FuseError: if fusing more than triples the error that the model's own dtype makes, and adds more than 1e-6 (in
            half precision: the dtype's resolution) of the outputs.
    """
    expected = _tensors(reference(image.to("cpu", torch.float64)))

    def error_of(outputs: Sequence[Tensor]) -> float:
        return max(float((a.cpu().double() - b).abs().max()) for a, b in zip(outputs, expected, strict=True))

    unfused_error, fused_error = error_of(_tensors(model(image))), error_of(_tensors(fused(image)))
    scale = 1 + max(float(tensor.abs().max()) for tensor in expected)
    resolution = max(1e-6, torch.finfo(image.dtype).eps)  # of few outputs the unfused ones may be right by luck
    if not fused_error <= 3 * unfused_error + resolution * scale:
        raise FuseError(
            f"the fused model is off by {fused_error:.1e} from the float64 reference, the unfused one by "
            f"{unfused_error:.1e}; expected at most three times as much"
        )
    return fused_error, unfused_error


def _tensors(output: Any) -> list[Tensor]:
    """Every tensor of a nested output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, list | tuple):
        return [tensor for item in output for tensor in _tensors(item)]
    return []
