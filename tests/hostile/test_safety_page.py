"""The limits that the page states are those of the code."""

from __future__ import annotations

import pytest

from yolorep import errors, options, plain_yaml
from yolorep.config import resources_dir
from yolorep.data.download import DownloadLimits
from yolorep.image_headers import max_pixels
from yolorep.limits import LARGEST_IMAGE_SIZE, LARGEST_NUMBER, LONGEST_CLASS_NAME, MOST_CLASSES, MOST_LAYERS
from yolorep.media import jpegs
from yolorep.media.frames import MOST_BYTES, MOST_SECONDS
from yolorep.models import limits as models
from yolorep.weights import archive, pickles

LIMITS = DownloadLimits()


@pytest.mark.parametrize(
    "stated",
    [
        f"| number in an option | {LARGEST_NUMBER:,};",
        f"| `--workers` | {options.MOST_WORKERS},",
        f"| `--imgsz` | {LARGEST_IMAGE_SIZE:,} pixels |",
        f"| line of an error | {errors.LONGEST_LINE:,} characters;",
        f"| YAML file | {plain_yaml.LARGEST_FILE >> 20} MB |",
        f"| its values, aliases counted as what they stand for | {plain_yaml.MOST_NODES:,}, "
        f"nested {plain_yaml.DEEPEST} deep |",
        f"| its keys | {plain_yaml.MOST_KEYS} |",
        f"| number in it | {plain_yaml.LONGEST_NUMBER} characters |",
        f"| classes | {MOST_CLASSES:,}, with names of {LONGEST_CLASS_NAME:,} letters |",
        f"| layers of a model | {MOST_LAYERS:,} |",
        f"| its parameters | {models.MOST_PARAMETERS:,}, extra branches to train included |",
        f"| channels | {models.MOST_CHANNELS:,} |",
        f"| values of a feature, of a 256-pixel image | {models.MOST_VALUES:,} |",
        f"| values of a model file | {models.MOST_ENTRIES:,}, in lists {models.DEEPEST} deep, "
        f"with words of {models.LONGEST_WORD:,} letters and numbers up to {models.LARGEST_NUMBER:,} |",
        f"| checkpoint: instructions of its pickle | {pickles.MAX_INSTRUCTIONS:,}, "
        f"in {archive.MAX_PICKLE_BYTES >> 20} MB |",
        f"| checkpoint: values | {pickles.MAX_VALUES:,}, nested {pickles.MAX_DEPTH} deep |",
        f"| checkpoint: members | stored, not compressed; a table of contents of {archive.MAX_TABLE_BYTES >> 20} MB |",
        f"| checkpoint: tensors | no larger than the file, {pickles.MAX_DIMENSIONS} dimensions |",
        f"| image, in both readers | {max_pixels():,} pixels;",
        f"| its file | {8 * max_pixels():,} bytes, 8 for each",
        f"| image from an address | {MOST_BYTES >> 20} MB, {MOST_SECONDS:g} s |",
        f"| JPEG in a stream | {jpegs.MOST_BYTES >> 20} MB |",
        f"| downloaded file | {LIMITS.largest >> 30} GiB, {LIMITS.silence:g} s of silence, "
        f"an answer within {LIMITS.patience:g} s, after as many {LIMITS.rate / 1000:g} kB/s on average |",
        f"| archive | unpacks to at most 1 GiB and {LIMITS.unpacked} times its size;",
    ],
)
def test_limits_are_those_of_the_code(stated: str) -> None:
    assert stated in (resources_dir() / "docs/safety.md").read_text(encoding="utf-8")
