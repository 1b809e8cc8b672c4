"""ImageNet weights as timm, Apple and RepVGG's authors publish them: read, recognized, loaded into our backbones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolorep.config import resources_dir
from yolorep.errors import UserError
from yolorep.models.classifier import Classifier
from yolorep.models.detector import build_network
from yolorep.models.network import Network
from yolorep.weights.kinds import kind_of_file
from yolorep.weights.layouts import (
    Layout,
    detect_layout,
    from_timm,
    is_backbone,
    is_fused,
    timm_names,
    to_timm,
    unfused_file,
)
from yolorep.weights.pickles import Stub, read_foreign

ENDINGS = (".safetensors", ".pt", ".pth", ".pth.tar", ".bin")
#: Endings by which a name is a file's, though of another kind, not a hub id.
OTHER_ENDINGS = (".onnx", ".torchscript", ".yaml")
#: What files wrap their tensors in; averaged weights are the published ones where a file has both.
WRAPPERS = ("state_dict_ema", "state_dict", "model")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_FILE = "model.safetensors"


@dataclass(frozen=True)
class Published:
    """What a published file holds.

    Attributes:
        source: File or hub id, as it was given.
        layout: Whose names it uses.
        tensors: timm's name of every tensor to the tensor.
        names: timm's name of every tensor to the file's.
    """

    source: str
    layout: Layout
    tensors: dict[str, Tensor]
    names: dict[str, str]


@dataclass(frozen=True)
class BackboneReport:
    """What was loaded. BatchNorm's counters of batches are left out: they change nothing, and some files lack them.

    Attributes:
        source: File or hub id, as it was given.
        layout: Whose names it uses.
        backbone: Names of the network's backbone tensors, all of which were loaded.
        classifier: Names of the tensors loaded into a classifier's last layers.
        unused: The file's tensors that have no place in the network: its classifier's, by timm's names.
        fresh: Rows of the backbone and of a classifier's end that keep initial values, such as ``9 SPPF``.
    """

    source: str
    layout: Layout
    backbone: tuple[str, ...]
    classifier: tuple[str, ...]
    unused: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        count = len(self.backbone)
        parts = [f"{self.source}: {self.layout.publisher} layout, {count}/{count} backbone tensors matched"]
        if self.classifier:
            parts.append(f"{len(self.classifier)} of the classifier too")
        if self.unused:
            layers = Counter("head.fc" if name.startswith("head.fc.") else name.split(".")[0] for name in self.unused)
            parts.append(f"not used: {', '.join(f'{layer} ({number})' for layer, number in layers.items())}")
        if self.fresh:
            parts.append(f"rows that keep initial values: {', '.join(self.fresh)}")
        return "; ".join(parts)


def load_backbone_weights(network: Network, source: str | Path) -> BackboneReport:
    """Load published weights into a network's backbone, and into a classifier's last layers where they fit.

    BatchNorm's eps and momentum stay what the blocks say: with another eps the published features are not the same.

    Args:
        network: Its backbone section has published rows. Changed in place.
        source: A file, or a hub id such as ``timm/mobileone_s0.apple_in1k``.

    Raises:
        UserError: if the source cannot be read, is fused, or differs from the backbone in a name or a shape; the
            network is unchanged then.
    """
    return _fill(network, read_published(source))


def build_published(source: str | Path) -> Classifier:
    """Build the classifier that a published file is of, whichever it is, with its weights.

    Args:
        source: A file, or a hub id such as ``timm/mobileone_s0.apple_in1k``.

    Returns:
        In eval mode, with as many classes as the file.

    Raises:
        UserError: if the source cannot be read, is fused, of an unknown variant or without a classifier.
    """
    published = read_published(source)
    variant = recognize(published)
    head = published.tensors.get("head.fc.weight")
    if head is None or head.ndim != 2:
        raise UserError(
            f"{source}: expected a classifier, found the backbone of {variant} without one; "
            "train a detector from it with --backbone-weights"
        )
    network = build_network(_classifier_yaml(variant), num_classes=len(head))
    assert isinstance(network, Classifier)
    report = _fill(network, published)
    if report.fresh:
        raise UserError(f"{source}: expected all of {variant}, found nothing that fits: {', '.join(report.fresh)}")
    return network.eval()


def recognize(published: Published) -> str:
    """Find the shipped variant, such as ``mobileone/s0``, whose backbone has these names and shapes.

    Raises:
        UserError: if there is none.
    """
    family = published.layout.family
    found = {name: tensor.shape for name, tensor in published.tensors.items() if is_backbone(name) and _counts(name)}
    files = sorted((resources_dir() / "cfg" / family).glob("*-cls.yaml"))
    variants = [f"{family}/{file.name.removesuffix('-cls.yaml')}" for file in files]
    for variant in variants:
        with torch.device("meta"):
            network = build_network(_classifier_yaml(variant))
        state = network.state_dict()
        names = {timm: state[name].shape for name, timm in timm_names(network).items()}
        if found == {timm: shape for timm, shape in names.items() if is_backbone(timm) and _counts(timm)}:
            return variant
    raise UserError(
        f"{published.source}: expected one of {', '.join(variants)}, found {family} of other widths or depths"
    )


def _classifier_yaml(variant: str) -> Path:
    return resources_dir() / "cfg" / f"{variant}-cls.yaml"


# --- into a network ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def _fill(network: Network, published: Published) -> BackboneReport:
    state = network.state_dict()
    names = timm_names(network)
    backbone = {name: timm for name, timm in names.items() if is_backbone(timm)}
    _check(backbone, state, published, of=network.config.source)
    used: dict[str, str] = {}
    for name, timm in names.items():
        theirs = published.tensors.get(timm)
        if theirs is not None and theirs.shape == state[name].shape:
            if state[name].is_floating_point() and not theirs.is_floating_point():
                raise UserError(
                    f"{published.source}: expected {published.names[timm]} in floating point, found {theirs.dtype}"
                )
            if not torch.isfinite(theirs).all():
                raise UserError(
                    f"{published.source}: expected finite weights, found {published.names[timm]} with others"
                )
            if name.endswith("running_var") and (theirs < 0).any():
                raise UserError(
                    f"{published.source}: expected variances of at least 0, found {published.names[timm]} with others"
                )
            used[name] = timm
    for name, timm in used.items():
        state[name].copy_(published.tensors[timm])
    loaded = [name for name in used if _counts(name)]
    taken = set(used.values())
    return BackboneReport(
        source=published.source,
        layout=published.layout,
        backbone=tuple(name for name in loaded if name in backbone),
        classifier=tuple(name for name in loaded if name not in backbone),
        unused=tuple(timm for timm in published.tensors if _counts(timm) and timm not in taken),
        fresh=_fresh_rows(network, loaded, names),
    )


def _check(backbone: Mapping[str, str], state: Mapping[str, Tensor], published: Published, *, of: str) -> None:
    """Raises UserError unless backbone and file have the same tensors."""
    source, layout = published.source, published.layout
    ours = {timm: name for name, timm in backbone.items() if _counts(timm)}
    if not ours:
        raise UserError(f"{of}: expected a backbone of MobileOne, RepVGG or FastViT rows for {source}, found none")
    own = detect_layout(ours)
    if own is not None and own.family != layout.family:
        raise UserError(f"{source}: expected weights of a {own.family} for {of}, found those of a {layout.family}")
    theirs = [timm for timm in published.tensors if is_backbone(timm) and _counts(timm)]
    missing = [timm for timm in ours if timm not in published.tensors]
    unexpected = [timm for timm in theirs if timm not in ours]
    differing = [
        timm
        for timm, name in ours.items()
        if timm in published.tensors and published.tensors[timm].shape != state[name].shape
    ]
    if not (missing or unexpected or differing):
        return
    expected_names = from_timm(list(ours), layout)
    shapes = [
        f"{published.names[timm]} (expected {_shape(state[ours[timm]])}, found {_shape(published.tensors[timm])})"
        for timm in differing
    ]
    faults = [
        f"{len(entries)} {what}: {', '.join(entries[:2])}{', …' if len(entries) > 2 else ''}"
        for what, entries in (
            ("missing", [expected_names[timm] for timm in missing]),
            ("of another shape", shapes),
            ("without a place in the network", [published.names[timm] for timm in unexpected]),
        )
        if entries
    ]
    matched = len(ours) - len(missing) - len(differing)
    raise UserError(
        f"{source}: expected the {len(ours)} tensors of the backbone of {of}, found {matched} of them; "
        f"{'; '.join(faults)}"
    )


def _fresh_rows(network: Network, loaded: Iterable[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """Rows of the backbone section, and others that published networks have, with a tensor that was not loaded."""
    rows = [*range(len(network.config.sections.get("backbone", ()))), *(int(name.split(".")[1]) for name in names)]
    kept = {int(name.split(".")[1]) for name in set(network.state_dict()).difference(loaded) if _counts(name)}
    return tuple(f"{row} {type(network.model[row]).__name__}" for row in sorted(kept.intersection(rows)))


def _counts(name: str) -> bool:
    """Whether a tensor matters; BatchNorm's counters do not, as its momentum is a number."""
    return not name.endswith("num_batches_tracked")


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


# --- from a file ------------------------------------------------------------------------------------------------------


def read_published(source: str | Path) -> Published:
    """Read a published file; nothing in it is run.

    Args:
        source: A file, or a hub id such as ``timm/mobileone_s0.apple_in1k``, which is fetched.

    Raises:
        UserError: one line, if it is missing, damaged, refused, fused, or of an unknown layout.
    """
    source = str(source)
    path = Path(source)
    if not path.is_file():
        # A mistyped path must not reach the network: its folder exists, or its ending is one of a file.
        local = path.exists() or path.parent.is_dir() or source.endswith((*ENDINGS, *OTHER_ENDINGS))
        if local or not _HUB_ID.fullmatch(source):
            raise UserError(f"{source}: no such file; expected published weights ({', '.join(ENDINGS)}) or a hub id")
        path = _fetch(source)
    tensors = _tensors(_read(path, source), source)
    if is_fused(tensors):
        raise UserError(
            f"{source}: expected weights with all branches, found fused ones, whose branches are gone; "
            f"get {unfused_file(Path(source).name)}"
        )
    layout = detect_layout(tensors)
    if layout is None:
        raise UserError(
            f"{source}: expected MobileOne, RepVGG or FastViT as timm, Apple or RepVGG's authors publish them, found "
            f"{len(tensors)} tensors such as {next(iter(tensors))}"
        )
    names = to_timm(tensors, layout)
    return Published(
        source,
        layout,
        tensors={names[name]: tensor for name, tensor in tensors.items()},
        names={timm: name for name, timm in names.items()},
    )


def _fetch(source: str) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{source}: no such file, and fetching it from the Hugging Face hub needs another package: "
            "pip install 'yolorep[hub]'"
        ) from None
    try:
        return Path(huggingface_hub.hf_hub_download(source, _HUB_FILE))
    except (OSError, ValueError, RuntimeError) as error:  # what the hub's own errors are; a user without a home folder
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{source}: no such file, and the Hugging Face hub did not give its {_HUB_FILE}: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error


def _read(path: Path, source: str) -> Any:
    if not path.name.endswith(ENDINGS):
        raise UserError(f"{source}: expected published weights ending in {', '.join(ENDINGS)}")
    return read_foreign(path)  # training checkpoints may hold the trainer's own objects beside the tensors


def _tensors(content: Any, source: str) -> dict[str, Tensor]:
    """The tensors by name, whatever they are wrapped in."""
    if isinstance(content, Mapping) and "format" in content and "model_config" in content:
        raise UserError(f"{source}: expected weights published by others, found one of our checkpoints; use --weights")
    for _ in WRAPPERS:  # they may stand in each other, but a file may also hold itself
        if not isinstance(content, Mapping):
            break
        content = next(
            (content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping) and content[key]), content
        )
    tensors = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor) and isinstance(name, str):
            tensors[name] = value
        if (isinstance(value, Tensor) and value.is_complex()) or (
            isinstance(value, Stub) and value.qualified_name.startswith(("torch._utils.", "torch.Tensor"))
        ):
            raise UserError(f"{source}: expected plain tensors of real numbers, found {name} of another kind")
    if not tensors:
        raise UserError(f"{source}: expected tensors by name, found {kind_of_file(Path(source)) or 'none'}")
    # Left by training on several devices.
    parallel = all(name.startswith("module.") for name in tensors)
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()} if parallel else tensors
