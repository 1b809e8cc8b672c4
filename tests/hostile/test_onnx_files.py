"""Exported files with other metadata, other bytes, or a graph that is not theirs: they run, or one line tells why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from tests.hostile.conftest import Hostile
from tests.hostile.harness import Case
from tests.hostile.mutate import HOSTILE_VALUES, mutate_bytes, mutate_text, mutate_tree, rng
from tests.inference.white_box import write_white_box
from yolorep.errors import UserError
from yolorep.formats.metadata import Metadata
from yolorep.inference.open import load_backend

METADATA = Metadata(names=("cat", "dog"), stride=8, strides=(8,), image_size=(8, 8), batch_size=1, version="1")
IMAGE = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)


def graph(*, classes: int = 2, size: int = 8) -> onnx.ModelProto:
    """A network whose boxes are the image's values, and whose scores are their first ones."""
    values = 3 * size * size // 4
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, values, last])
        for name, last in (("boxes", 4), ("scores", classes))
    ]
    constants = {"shape": [1, values, 4], "start": [0], "end": [classes], "axis": [2]}
    nodes = [
        helper.make_node("Reshape", ["images", "shape"], ["boxes"]),
        helper.make_node("Slice", ["boxes", "start", "end", "axis"], ["scores"]),
    ]
    given = [helper.make_tensor(name, TensorProto.INT64, [len(held)], held) for name, held in constants.items()]
    body = helper.make_graph(nodes, "g", [image], results, initializer=given)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write(path: Path, strings: Mapping[str, str], **how: int) -> Path:
    model = graph(**how)
    helper.set_model_props(model, dict(strings))
    onnx.save(model, path)
    return path


def run(path: Path) -> None:
    backend = load_backend(path)
    decoded = backend(IMAGE)
    assert decoded.scores.shape[2] == len(backend.names)
    "".join(backend.names).encode()


@pytest.mark.parametrize("count", [24, pytest.param(400, marks=pytest.mark.slow)])
def test_other_metadata(hostile: Hostile, tmp_path: Path, count: int) -> None:
    values = {key: json.loads(text) for key, text in METADATA.to_strings().items()}
    path = tmp_path / "m.onnx"
    plain = [value for value in HOSTILE_VALUES if not isinstance(value, int) or abs(value) < 10**100]

    def spoil(seed: int) -> None:
        random = rng("metadata", seed)
        if seed % 3 == 0:
            strings = {key: json.dumps(value) for key, value in values.items()}
            key = random.choice(sorted(strings))
            strings[key] = mutate_text(strings[key], random)
        else:
            changed = mutate_tree(values, random, [*plain, {1: [2, 3]}, "\ud800", [0.5]])
            strings = {str(key): json.dumps(value) for key, value in changed.items()}
        write(path, {key: text.encode("utf-8", "replace").decode() for key, text in strings.items()})

    hostile(Case(f"metadata {seed}", lambda: run(path), before=lambda seed=seed: spoil(seed)) for seed in range(count))


@pytest.mark.parametrize("count", [16, pytest.param(400, marks=pytest.mark.slow)])
def test_other_bytes(hostile: Hostile, tmp_path: Path, count: int) -> None:
    data, path = write(tmp_path / "good.onnx", METADATA.to_strings()).read_bytes(), tmp_path / "m.onnx"
    hostile(
        Case(
            f"bytes {seed}",
            lambda: run(path),
            before=lambda seed=seed: path.write_bytes(mutate_bytes(data, rng("onnx", seed))),
        )
        for seed in range(count)
    )


@pytest.mark.parametrize("count", [8, pytest.param(150, marks=pytest.mark.slow)])
def test_other_bytes_of_torchscript(hostile: Hostile, tmp_path: Path, count: int) -> None:
    path = write_white_box(tmp_path / "m.torchscript")
    data = path.read_bytes()

    def spoil(seed: int) -> None:
        path.write_bytes(mutate_bytes(data, rng("torchscript", seed)))

    hostile(
        Case(f"torchscript {seed}", lambda: load_backend(path), before=lambda seed=seed: spoil(seed))
        for seed in range(count)
    )


def test_text_that_is_none(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", METADATA.to_strings())
    path.write_bytes(path.read_bytes().replace(b'["cat", "dog"]', b'["c\xff\xfe", "dog"]'))
    with pytest.raises(UserError, match=r"m\.onnx: expected an ONNX file, onnxruntime says: .*utf-8"):
        load_backend(path)


CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, int], str]] = {
    "three names": ({"names": '["a", "b", "c"]'}, {}, r"scores of shape \(1, any, 3\) .* found \(1, 48, 2\)"),
    "another size": ({}, {"size": 16}, r"images of shape \(1, 3, 8, 8\) .* found \(1, 3, 16, 16\)"),
    "another batch": ({"batch_size": "4"}, {}, r"images of shape \(4, 3, 8, 8\)"),
    "a surrogate": ({"names": '["\\ud800", "dog"]'}, {}, "a fault in it: names: "),
    "a stride of text": ({"stride": '"8"'}, {}, "a fault in it: stride: '8'"),
    "an infinite stride": ({"stride": "Infinity"}, {}, "a fault in it: stride: inf"),
    "no classes": ({"names": "[]"}, {}, r"a fault in it: names: \[\]"),
    "a huge image": ({"image_size": "[8, 99999999]"}, {}, "a fault in it: image_size"),
    "deep lists": ({"fuse": "[" * 100_000}, {}, "a fault in it: "),
    "a long number": ({"stride": "9" * 100_000}, {}, "a fault in it: "),
}


@pytest.mark.parametrize(("changes", "how", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_metadata_that_contradict_the_graph(
    changes: dict[str, str], how: dict[str, int], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.onnx", METADATA.to_strings() | changes, **how)
    with pytest.raises(UserError, match=rf"m\.onnx: expected .*{message}"):
        load_backend(path)
    run(write(path, METADATA.to_strings()))
