"""Blocks. Importing the package registers every row type."""

from yolorep.nn import conv, csp, ghost, mobileone, spp, transformer

__all__ = ["conv", "csp", "ghost", "mobileone", "spp", "transformer"]
