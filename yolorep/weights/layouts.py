"""Names of tensors in ImageNet weights as others publish them, and how ours correspond.

timm's names are the common language: ours follow from a network's rows, Apple's (MobileOne, FastViT) and RepVGG's
authors' by rules, both ways. Nothing here reads files or touches tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from yolorep.models.heads.classify import Classify
from yolorep.models.network import Network
from yolorep.nn.fastvit import FastViTStem, FastViTTail, PatchEmbed, RepCPE, RepMixer
from yolorep.nn.fastvit_attention import FastViTAttention
from yolorep.nn.mobileone import MobileOne, MobileOneStem
from yolorep.nn.repvgg import RepVGG

Family = Literal["mobileone", "repvgg", "fastvit"]
#: ``timm features_only``: timm's backbone without a classifier, which flattens ``stages.0`` to ``stages_0``.
Publisher = Literal["timm", "timm features_only", "apple", "official"]


@dataclass(frozen=True)
class Layout:
    """Whose names a file uses: timm's, Apple's, or (RepVGG) the authors' own."""

    publisher: Publisher
    family: Family


# --- the names in a file and timm's -----------------------------------------------------------------------------------

#: What tells a layout: the family, and names of which each matches some key.
_SIGNS: tuple[tuple[Layout, tuple[str, ...]], ...] = (
    (Layout("apple", "mobileone"), (r"stage0\.rbr_conv\.", r"stage1\.")),
    (Layout("official", "repvgg"), (r"stage0\.rbr_dense\.", r"stage1\.")),
    (Layout("apple", "fastvit"), (r"patch_embed\.0\.rbr_conv\.", r"network\.\d+\.")),
    (Layout("timm", "mobileone"), (r"stem\.conv_kxk\.0\.", r"stages\.0\.0\.conv_kxk\.0\.")),
    (Layout("timm", "repvgg"), (r"stem\.conv_1x1\.", r"stages\.0\.0\.conv_1x1\.")),
    (Layout("timm", "fastvit"), (r"stem\.0\.conv_kxk\.", r"stages\.0\.blocks\.")),
    (Layout("timm features_only", "mobileone"), (r"stem\.conv_kxk\.0\.", r"stages_0\.0\.conv_kxk\.0\.")),
    (Layout("timm features_only", "repvgg"), (r"stem\.conv_1x1\.", r"stages_0\.0\.conv_1x1\.")),
    (Layout("timm features_only", "fastvit"), (r"stem_0\.conv_kxk\.", r"stages_0\.blocks\.")),
)

#: Parts of names inside blocks: theirs, timm's.
_PARTS: dict[Family, tuple[tuple[str, str], ...]] = {
    "mobileone": (
        ("rbr_conv", "conv_kxk"),
        ("rbr_scale", "conv_scale"),
        ("rbr_skip", "identity"),
        ("se.reduce", "attn.fc1"),
        ("se.expand", "attn.fc2"),
    ),
    "repvgg": (
        ("rbr_dense", "conv_kxk"),
        ("rbr_1x1", "conv_1x1"),
        ("rbr_identity", "identity"),
        ("se.down", "attn.fc1"),
        ("se.up", "attn.fc2"),
    ),
    "fastvit": (
        ("rbr_conv", "conv_kxk"),
        ("rbr_scale", "conv_scale"),
        ("rbr_skip", "identity"),
        ("se.reduce", "se.fc1"),
        ("se.expand", "se.fc2"),
        ("lkb_origin", "large_conv"),
        ("convffn", "mlp"),
    ),
}
#: Names of FastViT's modules outside of the stages: Apple's, timm's.
_FASTVIT_TOP = (("patch_embed", "stem"), ("conv_exp", "final_conv"), ("head", "head.fc"))
#: What the modules of a FastViT stage are called, in Apple's order: inside ``network.N`` and inside ``stages.i``.
_FASTVIT_STAGE = (("proj.", "downsample.proj."), ("pe.", "pos_emb.pos_enc."), ("", "blocks."))
_FUSED = re.compile(r"(^|\.)(reparam_conv|rbr_reparam|lkb_reparam)\.")
#: How publishers name fused files, and the unfused ones beside them.
_UNFUSED_FILES = (
    (re.compile(r"(mobileone_s\d)(\.pth.*)"), r"\1_unfused\2"),
    (re.compile(r"(fastvit_\w+)_reparam(\.pth.*)"), r"\1\2"),
    (re.compile(r"(RepVGG-.+)-deploy(\.pth.*)"), r"\1-train\2"),
)


def detect_layout(names: Collection[str]) -> Layout | None:
    """Whose names these are; None if nobody's whose networks are known here."""
    for layout, signs in _SIGNS:
        if all(any(re.match(sign, name) for name in names) for sign in signs):
            return layout
    return None


def is_fused(names: Iterable[str]) -> bool:
    """Whether the names are those of a fused network, whose branches are gone."""
    return any(_FUSED.search(name) for name in names)


def unfused_file(file: str) -> str:
    """What to get instead of a fused file: the name it is published under, else the publishers' rules."""
    for pattern, replacement in _UNFUSED_FILES:
        if pattern.fullmatch(file):
            return pattern.sub(replacement, file)
    return (
        "the one it was made from (MobileOne: mobileone_s0_unfused.pth.tar; FastViT: fastvit_t8.pth.tar, without "
        "_reparam; RepVGG: RepVGG-A0-train.pth, not -deploy)"
    )


def to_timm(names: Collection[str], layout: Layout) -> dict[str, str]:
    """A file's names to timm's.

    Args:
        names: all of the file's: FastViT's stages are counted in them.
        layout: whose names they are.
    """
    if layout.publisher == "timm":
        return {name: name for name in names}
    if layout.publisher == "timm features_only":
        return {name: re.sub(r"^(stem|stages)_(\d+)\.", r"\1.\2.", name) for name in names}
    if layout.family == "fastvit":
        stages = _network_stages(names)
        return {name: _inside(_fastvit_to_timm(name, stages), layout.family) for name in names}
    return {name: _inside(_stage_to_timm(name), layout.family) for name in names}


def from_timm(names: Collection[str], layout: Layout) -> dict[str, str]:
    """Names of timm's to those of another layout: the inverse of :func:`to_timm`.

    Args:
        names: all of timm's: FastViT's modules are counted in them.
        layout: whose names are wanted.
    """
    if layout.publisher == "timm":
        return {name: name for name in names}
    if layout.publisher == "timm features_only":
        flat = r"^(stages|stem)\.(\d+)\." if layout.family == "fastvit" else r"^(stages)\.(\d+)\."
        return {name: re.sub(flat, r"\1_\2.", name) for name in names}
    if layout.family == "fastvit":
        modules = _stage_modules(names)
        return {name: _fastvit_from_timm(_inside(name, layout.family, back=True), modules) for name in names}
    return {name: _stage_from_timm(_inside(name, layout.family, back=True)) for name in names}


def _inside(name: str, family: Family, *, back: bool = False) -> str:
    """Renames what lies inside a block, to timm's names or back."""
    for theirs, timm in _PARTS[family]:
        old, new = (timm, theirs) if back else (theirs, timm)
        name = name.replace(f".{old}.", f".{new}.")
    return name


def _stage_to_timm(name: str) -> str:
    """MobileOne's and RepVGG's ``stage0`` is timm's stem, ``stage1`` its ``stages.0``."""
    name = re.sub(r"^linear\.", "head.fc.", name)
    name = re.sub(r"^stage0\.", "stem.", name)
    return re.sub(r"^stage(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.", name)


def _stage_from_timm(name: str) -> str:
    name = re.sub(r"^head\.fc\.", "linear.", name)
    name = re.sub(r"^stem\.", "stage0.", name)
    return re.sub(r"^stages\.(\d+)\.", lambda match: f"stage{int(match[1]) + 1}.", name)


def _network_stages(names: Iterable[str]) -> dict[int, int]:
    """Stage of every module of Apple's ``network`` list: the number of patch embeddings up to it."""
    found = {(int(match[1]), match[2]) for name in names if (match := re.match(r"network\.(\d+)\.(\w+)", name))}
    embeds = {number for number, inside in found if inside == "proj"}
    return {number: sum(embed <= number for embed in embeds) for number, _ in found}


def _stage_modules(names: Collection[str]) -> dict[tuple[int, str], int]:
    """(stage, timm's name of a module in it) to its place in Apple's ``network`` list, where they stand in order."""
    stages = sorted({int(match[1]) for name in names if (match := re.match(r"stages\.(\d+)\.", name))})
    present = [
        (stage, timm)
        for stage in stages
        for _, timm in _FASTVIT_STAGE
        if any(name.startswith(f"stages.{stage}.{timm}") for name in names)
    ]
    return {module: place for place, module in enumerate(present)}


def _fastvit_to_timm(name: str, stages: Mapping[int, int]) -> str:
    if match := re.match(r"network\.(\d+)\.", name):
        rest = name[match.end() :]
        apple, timm = next(pair for pair in _FASTVIT_STAGE if rest.startswith(pair[0]))
        name = f"stages.{stages[int(match[1])]}.{timm}{rest.removeprefix(apple)}"
    for apple, timm in _FASTVIT_TOP:
        name = re.sub(rf"^{apple}\.", f"{timm}.", name)
    return re.sub(r"(\.layer_scale(_\d)?)$", r"\1.gamma", name)


def _fastvit_from_timm(name: str, modules: Mapping[tuple[int, str], int]) -> str:
    if match := re.match(r"stages\.(\d+)\.", name):
        rest = name[match.end() :]
        apple, timm = next(pair for pair in _FASTVIT_STAGE if rest.startswith(pair[1]))
        name = f"network.{modules[int(match[1]), timm]}.{apple}{rest.removeprefix(timm)}"
    for apple, timm in _FASTVIT_TOP:
        name = re.sub(rf"^{re.escape(timm)}\.", f"{apple}.", name)
    return re.sub(r"(\.layer_scale(_\d)?)\.gamma$", r"\1", name)


# --- our names and timm's ---------------------------------------------------------------------------------------------


def timm_names(network: Network) -> dict[str, str]:
    """Our name of every tensor that published networks have too, to timm's name of it.

    These are the tensors of the published kinds of rows in the backbone section, and of a classifier's last rows.
    """
    state = network.state_dict()
    names = {}
    for block, timm in _blocks(network):
        attention = "se" if timm == "final_conv" else "attn"
        prefix = f"model.{block}."
        for name in state:
            if name.startswith(prefix):
                inside = _UNIT.sub(".", f".{name.removeprefix(prefix)}")
                inside = inside.replace(".se.reduce.", f".{attention}.fc1.").replace(
                    ".se.expand.", f".{attention}.fc2."
                )
                names[name] = timm + inside
    return names


def is_backbone(timm: str) -> bool:
    """Whether timm's name is that of a tensor before the classifier's own layers."""
    return timm.startswith(("stem.", "stages."))


#: Our blocks hold their branches in a unit; published ones hold them directly.
_UNIT = re.compile(r"\.conv\.(?=(conv_kxk|conv_scale|conv_1x1|identity)\.)")


def _blocks(network: Network) -> Iterator[tuple[str, str]]:
    """Our name of every published block (from the row's number on) and timm's, in order."""
    backbone = len(network.config.sections.get("backbone", ()))
    stage = -1
    place = 0  # of the next block in its stage
    has_stem = False
    for row, layer in enumerate(network.model):
        if isinstance(layer, FastViTTail):
            yield f"{row}", "final_conv"
        elif isinstance(layer, Classify):
            yield f"{row}.linear", "head.fc"
        elif row >= backbone:
            continue
        elif isinstance(layer, MobileOneStem):
            yield f"{row}", "stem"
        elif isinstance(layer, FastViTStem):
            yield f"{row}", "stem"
            stage, place = 0, 0
        elif isinstance(layer, PatchEmbed):
            stage, place = stage + 1, 0
            yield f"{row}", f"stages.{stage}.downsample.proj"
        elif isinstance(layer, RepCPE):
            yield f"{row}", f"stages.{stage}.pos_emb"
        elif isinstance(layer, RepMixer | FastViTAttention):
            for number in range(len(layer)):
                yield f"{row}.{number}", f"stages.{stage}.blocks.{place + number}"
            place += len(layer)
        elif isinstance(layer, RepVGG) and len(layer) == 1 and not has_stem:
            yield f"{row}.0", "stem"
            has_stem = True
        elif isinstance(layer, RepVGG | MobileOne):
            if stage < 0 or _stride(layer) > 1:  # without a stride, a row goes on with the stage before
                stage, place = stage + 1, 0
            for number in range(len(layer)):
                # Both blocks of a MobileOne unit are blocks of the published stage.
                for half in (".dw", ".pw") if isinstance(layer, MobileOne) else ("",):
                    yield f"{row}.{number}{half}", f"stages.{stage}.{place}"
                    place += 1


def _stride(layer: nn.Module) -> int:
    """Stride of the first convolution."""
    return next(module.stride[0] for module in layer.modules() if isinstance(module, nn.Conv2d))
