import json
from pathlib import Path

import pytest

from yolorep.errors import UserError
from yolorep.formats.metadata import Metadata

STATIC = Metadata(
    names=("größe", 'say "hi"'),
    stride=32,
    strides=(8, 16),
    image_size=(320, 640),
    batch_size=2,
    version="1.2",
    nms_free=True,
    fuse={"kinds": {"ConvBN": 3}},
)
DYNAMIC = Metadata(names=("a",), stride=32, strides=(32,), image_size=None, batch_size=None, version="1.2")


@pytest.mark.parametrize("metadata", [STATIC, DYNAMIC])
def test_round_trip(metadata):
    strings = metadata.to_strings()
    assert all(isinstance(value, str) for value in strings.values())
    assert Metadata.from_strings({**strings, "other": "junk"}, path=Path("f.onnx")) == metadata


def test_files_that_do_not_say_so_need_nms():
    strings = {key: value for key, value in STATIC.to_strings().items() if key != "nms_free"}
    assert not Metadata.from_strings(strings, path=Path("f.onnx")).nms_free


def test_says_how_to_prepare_an_image():
    preprocessing = json.loads(STATIC.to_strings()["preprocessing"])
    assert preprocessing["colour"] == "RGB"
    assert preprocessing["range"] == [0, 1]
    assert preprocessing["border"] == 114


@pytest.mark.parametrize(
    "change",
    [
        {"names": "not json"},
        {"stride": "[]"},
        {"stride": "0"},
        {"strides": "7"},
        {"image_size": "[1]"},
        {"image_size": None},
        {"fuse": "3"},
        {"nms_free": "1"},
    ],
    ids=str,
)
def test_damaged_metadata_is_refused_by_name(change):
    strings = {key: value for key, value in {**STATIC.to_strings(), **change}.items() if value is not None}
    with pytest.raises(UserError, match=r"^f\.onnx: expected the metadata of 'yolorep export', found"):
        Metadata.from_strings(strings, path=Path("f.onnx"))


def test_a_foreign_file_is_named_as_such():
    with pytest.raises(UserError, match="written by 'yolorep export'"):
        Metadata.from_strings({"names": "['a']", "stride": "32"}, path=Path("f.onnx"))
