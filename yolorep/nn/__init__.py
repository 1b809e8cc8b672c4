"""Blocks. Importing the package registers every row type."""

from yolorep.nn import (
    acmix,
    attention,
    conv,
    convnext,
    csp,
    elan,
    fastvit,
    fastvit_attention,
    foreign,
    ghost,
    mobileone,
    repconv,
    repvgg,
    space_to_depth,
    spp,
    transformer,
)

__all__ = [
    "acmix",
    "attention",
    "conv",
    "convnext",
    "csp",
    "elan",
    "fastvit",
    "fastvit_attention",
    "foreign",
    "ghost",
    "mobileone",
    "repconv",
    "repvgg",
    "space_to_depth",
    "spp",
    "transformer",
]
