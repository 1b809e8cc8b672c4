"""Label formats: one a file, which finds a split on disk and reads it.

To add one, write its :class:`~yolorep.data.readers.base.Reader` in a file here and name it in ``READERS``.
"""

from __future__ import annotations

from yolorep.data.readers.base import Reader
from yolorep.data.readers.coco import CocoReader
from yolorep.data.readers.yolo import YoloReader

READERS: tuple[type[Reader], ...] = (YoloReader, CocoReader)
