"""Heads. Importing the package registers their row types."""

from yolorep.models.heads import anchor, classify

__all__ = ["anchor", "classify"]
