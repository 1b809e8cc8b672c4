"""Heads. Importing the package registers their row types."""

from yolorep.models.heads import anchor

__all__ = ["anchor"]
