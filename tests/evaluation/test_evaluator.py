"""What an evaluation measures."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_importing_nms_is_not_timed() -> None:
    code = """
import sys

import pytest
from tests.inference.white_box import NAMES, WhiteBoxBackend
from tests.media.files import make_image
from yolorep import SequenceDataset
from yolorep.evaluation.evaluator import evaluate

class Watching(WhiteBoxBackend):
    def _run(self, images):
        assert "torchvision.ops" in sys.modules
        return super()._run(images)

assert "torchvision" not in sys.modules
evaluate(Watching(), SequenceDataset([(make_image(), [[0, 0.5, 0.5, 0.2, 0.2]])], NAMES, image_size=64), batch_size=1)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
