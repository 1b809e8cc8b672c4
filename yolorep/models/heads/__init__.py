"""Heads. Importing the package registers their row types."""

from yolorep.models.heads import anchor, anchor_free, classify

__all__ = ["anchor", "anchor_free", "classify"]
