"""Structural reparameterization: blocks that become plain convolutions, and ``fuse()``, which proves that they did.

A block with branches subclasses :class:`Reparameterizable` and says what its kernel is; a block with a norm or a scale
beside its linear maps implements :class:`Foldable`; a network that knows nothing of blocks is :class:`Groupable`.
Nothing else has to know.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from yolorep.defaults import IMAGE_SIZE
from yolorep.errors import FuseError
from yolorep.nn.flops import count_flops
from yolorep.nn.fuse_report import FoldRecord, FuseRecord, FuseReport, Kept
from yolorep.nn.kernels import ConvKernel, LinearKernel
from yolorep.nn.layer_scale import LayerScale
from yolorep.nn.proof import compare_models, compare_unit, noise

__all__ = [
    "ConvKernel",
    "FoldRecord",
    "Foldable",
    "FoldsRows",
    "FuseRecord",
    "FuseReport",
    "Groupable",
    "Kept",
    "LinearKernel",
    "Reparameterizable",
    "fuse",
]

Model = TypeVar("Model", bound=nn.Module)


class Reparameterizable(nn.Module, ABC):
    """A module that is one convolution in eval mode: activation, attention and drop path stay outside."""

    @abstractmethod
    def kernel(self) -> ConvKernel:
        """The convolution this module is in eval mode: a pure, differentiable sum over its branches."""

    def to_conv(self) -> nn.Conv2d:
        """A new convolution equal to this module, which is left untouched; dtype and device are kept."""
        like = next(self.parameters())
        # Where there are only shapes to fold, on the meta device, nothing is moved.
        exact = copy.deepcopy(self).to(like.device if like.is_meta else "cpu", torch.float64)
        conv = trainable_like(exact.kernel().to_conv(), self)
        return conv.to(like.device, like.dtype).train(self.training)


def trainable_like(layer: Model, *sources: nn.Module) -> Model:
    """``layer``, trainable if anything was in the modules that it is made of."""
    return layer.requires_grad_(any(parameter.requires_grad for source in sources for parameter in source.parameters()))


@runtime_checkable
class Foldable(Protocol):
    """A module with a norm or scale that its own linear layers can take up.

    Attributes:
        in_channels: channels of its (batch, channels, height, width) input.
    """

    in_channels: int

    def fold_(self) -> list[FoldRecord]:
        """Folds in place, replacing each norm or scale by ``nn.Identity``; nothing left to fold gives ``[]``."""


@runtime_checkable
class HasExampleInput(Protocol):
    """A model that can say what it is fed."""

    def example_input(self, image_size: int | None = None) -> Tensor:
        """A random input: square of ``image_size``, or small and not square."""


@runtime_checkable
class Groupable(HasExampleInput, Protocol):
    """A network of layers that are no units: it finds out which of them can be."""

    def group_(self) -> dict[str, str]:
        """Joins convolutions and the norms after them to units, in place: the same layers, computing the same.

        Returns:
            The path of every other norm and scale, and why it stays.
        """


@runtime_checkable
class FoldsRows(HasExampleInput, Protocol):
    """A network of rows, some of which are norms: other rows can take them up."""

    def fold_rows_(self) -> tuple[list[FoldRecord], dict[str, str]]:
        """Folds in place, after all blocks, replacing each norm by ``nn.Identity``.

        Returns:
            What was folded, and the path of every other norm that is a row with the reason why it stays.
        """


def fuse(model: Model, *, strict: bool = False, image_size: int | None = IMAGE_SIZE) -> tuple[Model, FuseReport]:
    """Reparameterizes every block and proves that the network computes the same function.

    Works on a copy in float64 on the CPU and casts back once; ``model`` stays bit-identical. Every replaced unit is
    compared in float64 on random odd-sized input, then the whole model in its own dtype.

    Args:
        model: in eval mode.
        strict: raise if anything could not be folded.
        image_size: pixels at which the report counts FLOPs; None not to count them, which takes a while.

    Returns:
        The fused model (of the same class, unless the model itself is a unit) and the report.

    Raises:
        FuseError: in training mode, if a fold is wrong or refused, or with ``strict`` if a norm was kept.
    """
    if any(module.training for module in model.modules()):
        raise FuseError("a fused network reproduces eval-mode outputs: call model.eval()")
    reference = copy.deepcopy(model).to("cpu", torch.float64)
    work: Model = copy.deepcopy(reference)
    drafts: list[_Draft] = []
    stays = _group(work, prove=True)
    work = _replace_units(work, drafts, prove=True)
    _fold_blocks(work, drafts, prove=True)
    stays |= _fold_rows(work, drafts, prove=True)
    kept = tuple(_kept(work, stays))
    if strict and kept:
        raise FuseError("; ".join(f"{entry.name} is kept: {entry.reason}" for entry in kept))
    fused = _cast_like(work, model).eval()

    flops: dict[str, int] = {}
    flops_fused: dict[str, int] = {}
    model_error: float | None = None
    unfused_error: float | None = None
    if isinstance(model, HasExampleInput) and isinstance(fused, HasExampleInput):
        model_error, unfused_error = compare_models(model, fused, reference, image=model.example_input())
        if image_size is not None:
            image = model.example_input(image_size)
            flops, flops_fused = count_flops(model, image), count_flops(fused, image)
    report = FuseReport(
        records=tuple(draft.record(flops, flops_fused) for draft in drafts),
        kept=kept,
        params=count_parameters(model),
        params_fused=count_parameters(fused),
        gflops=flops.get("", 0) / 1e9,
        gflops_fused=flops_fused.get("", 0) / 1e9,
        image_size=image_size,
        model_error=model_error,
        unfused_error=unfused_error,
    )
    return fused, report


def fused_form(model: Model) -> Model:
    """``model`` rebuilt in its fused form, without proof: what weights are loaded into that were fused before.

    Args:
        model: in eval mode; taken apart.
    """
    drafts: list[_Draft] = []
    _group(model, prove=False)
    model = _replace_units(model, drafts, prove=False)
    _fold_blocks(model, drafts, prove=False)
    _fold_rows(model, drafts, prove=False)
    return model.eval()


def count_parameters(module: nn.Module) -> int:
    """Number of parameter values, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass
class _Draft:
    """A record before FLOPs are known."""

    name: str
    kind: str
    max_error: float
    params: int
    params_fused: int
    folds: tuple[FoldRecord, ...] = ()

    def record(self, flops: dict[str, int], flops_fused: dict[str, int]) -> FuseRecord:
        flops_of_block = flops.get(self.name, 0), flops_fused.get(self.name, 0)
        return FuseRecord(
            self.name, self.kind, self.max_error, self.params, self.params_fused, *flops_of_block, self.folds
        )


def _group(work: nn.Module, *, prove: bool) -> dict[str, str]:
    """Lets every Groupable find its units, and compares it with what it was; why its other norms stay, by name."""
    stays: dict[str, str] = {}
    for name, network in [(name, module) for name, module in work.named_modules() if isinstance(module, Groupable)]:
        block = work.get_submodule(name)
        _refuse_hooks(name, block)
        before = copy.deepcopy(block) if prove else block
        reasons = _named(name, network.group_)
        stays |= {f"{name}.{path}" if name else path: reason for path, reason in reasons.items()}
        if prove:
            compare_unit(name, before, block, network.example_input())
    return stays


def _replace_units(work: Model, drafts: list[_Draft], *, prove: bool) -> Model:
    """Replaces every outermost Reparameterizable by its convolution, at every place a shared one is used."""
    replaced: dict[int, nn.Module] = {}
    for name, unit in list(outermost_units(work)):
        if id(unit) not in replaced:
            _refuse_hooks(name, unit)
            conv = _named(name, unit.to_conv)
            error = compare_unit(name, unit, conv, noise(unit, conv.in_channels)) if prove else 0.0
            drafts.append(_Draft(name, type(unit).__name__, error, count_parameters(unit), count_parameters(conv)))
            replaced[id(unit)] = conv
        if name == "":
            return replaced[id(unit)]  # type: ignore[return-value]  # the model itself was a unit
        parent, _, child = name.rpartition(".")
        setattr(work.get_submodule(parent), child, replaced[id(unit)])
    return work


def outermost_units(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Reparameterizable]]:
    """Every place (name, unit) at which a Reparameterizable stands that is no part of another one.

    A shared unit comes once for each of its places.
    """
    if isinstance(module, Reparameterizable):
        yield prefix, module
        return
    for name, child in module._modules.items():  # named_children() would hide the second use of a shared module
        if child is not None:
            yield from outermost_units(child, f"{prefix}.{name}" if prefix else name)


def _fold_blocks(work: nn.Module, drafts: list[_Draft], *, prove: bool) -> None:
    """Lets every Foldable fold itself, innermost first, and compares it with what it was."""
    foldables = [(name, module) for name, module in work.named_modules() if isinstance(module, Foldable)]
    for name, foldable in reversed(foldables):
        block = work.get_submodule(name)
        _refuse_hooks(name, block)
        before = copy.deepcopy(block)
        folds = _named(name, foldable.fold_)
        if not folds:
            continue
        if not any(parameter.requires_grad for parameter in before.parameters()):
            block.requires_grad_(False)
        error = compare_unit(name, before, block, noise(before, foldable.in_channels)) if prove else 0.0
        counts = count_parameters(before), count_parameters(block)
        drafts.append(_Draft(name, type(block).__name__, error, *counts, folds=tuple(folds)))


def _fold_rows(work: nn.Module, drafts: list[_Draft], *, prove: bool) -> dict[str, str]:
    """Lets a network fold norms that are rows, and compares it with what it was; why the others stay, by name."""
    if not isinstance(work, FoldsRows):
        return {}
    before = copy.deepcopy(work) if prove and any(isinstance(part, _BatchNorm) for part in work.modules()) else work
    folds, reasons = work.fold_rows_()
    if folds and prove:
        paths = {path for fold in folds for path in (fold.path, *fold.into)}
        for path in paths:
            _refuse_hooks(path, before.get_submodule(path))
        error = compare_unit("", before, work, work.example_input())
        counts = [sum(count_parameters(model.get_submodule(path)) for path in paths) for model in (before, work)]
        drafts.append(_Draft("", "rows", error, counts[0], counts[1], folds=tuple(folds)))
    return reasons


def _kept(work: nn.Module, stays: Mapping[str, str]) -> Iterator[Kept]:
    for name, module in work.named_modules():
        if name in stays:
            yield Kept(name, stays[name])
        elif isinstance(module, _BatchNorm | LayerScale):
            parent = type(work.get_submodule(name.rpartition(".")[0])).__name__
            yield Kept(name, f"{parent} says no linear layer that this {type(module).__name__} could fold into")


def _named(name: str, fold: Any) -> Any:
    """Calls ``fold``; its error is told with the block's place in the model."""
    try:
        return fold()
    except FuseError as error:
        raise FuseError(f"{name or 'model'}: {error}") from error


def _refuse_hooks(name: str, unit: nn.Module) -> None:
    for path, module in unit.named_modules(prefix=name):
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        if any(hooks):
            raise FuseError(f"{path}: has hooks, which would be lost with the block; remove them before fusing")
        if parametrize.is_parametrized(module):
            raise FuseError(f"{path}: is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first")


def _cast_like(work: Model, model: Model) -> Model:
    """Gives the fused copy the device and dtypes of the model it came from."""
    like = next(model.parameters())
    sources = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    dtypes = {name: tensor.dtype for source in sources for name, tensor in source}
    for prefix, module in work.named_modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if tensor.is_floating_point():
                dtype = dtypes.get(f"{prefix}.{name}" if prefix else name, like.dtype)
                tensor.data = tensor.data.to(like.device, dtype)
            else:
                tensor.data = tensor.data.to(like.device)
    return work
