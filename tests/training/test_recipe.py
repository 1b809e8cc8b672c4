"""Recipes: reading them, and what a run says about its own."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from yolorep.config import Hyp, Recipe, Share, resources_dir
from yolorep.errors import UserError
from yolorep.losses.anchor import AnchorLoss, AnchorRecipe
from yolorep.losses.anchor_free import FreeRecipe
from yolorep.models.heads.anchor import Detect
from yolorep.models.heads.anchor_free import DetectFree
from yolorep.models.heads.base import DetectionHead
from yolorep.training.optim import Schedule, build_optimizer
from yolorep.training.recipe import describe, load_hyp
from yolorep.training.task import HEADS, HeadTraining, training_of

#: The keys of YOLOv5's hyperparameter files, with values of our own.
YOLOV5 = {
    **{"lr0": 0.02, "lrf": 0.2, "momentum": 0.9, "weight_decay": 0.0003},
    **{"warmup_epochs": 1.5, "warmup_momentum": 0.7, "warmup_bias_lr": 0.2},
    **{"box": 0.03, "cls": 0.3, "cls_pw": 0.8, "obj": 0.7, "obj_pw": 0.9, "iou_t": 0.2, "anchor_t": 3.5},
    **{"fl_gamma": 0, "hsv_h": 0, "hsv_s": 0.6, "hsv_v": 0.3, "degrees": 0.4, "translate": 0.2, "scale": 0.9},
    **{"shear": 0.6, "perspective": 0.0, "flipud": 0, "fliplr": 0.5, "mosaic": 1, "mixup": 0.1, "copy_paste": 0.0},
}


def write(folder: Path, **keys: Any) -> Path:
    path = folder / "hyp.yaml"
    path.write_text(yaml.safe_dump(keys))
    return path


def test_shipped_recipes_load() -> None:
    files = sorted((resources_dir() / "cfg/hyp").glob("*.yaml"))
    assert {path.stem for path in files} == {"scratch-low", "scratch-med", "yolorep"}
    for path in files:
        load_hyp(path)
    low = load_hyp("cfg/hyp/scratch-low.yaml").model_dump()
    assert low == {**Hyp().model_dump(), **AnchorRecipe().model_dump(), **FreeRecipe().model_dump()}
    med = load_hyp("cfg/hyp/scratch-med.yaml").model_dump()
    changed = {"lrf": 0.1, "cls": 0.3, "obj": 0.7, "scale": 0.9, "mixup": 0.1}
    assert med == {**low, **changed}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"copy_paste": 0.1}, "copy_paste 0.1 is ignored: it moves polygons"),
        ({"anchors": 3.4}, "anchors 3.4 is ignored: the model file says how many"),
    ],
)
def test_yolov5s_files_load(
    tmp_path: Path, changes: dict[str, float], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {**YOLOV5, **changes}
    hyp = load_hyp(write(tmp_path, **keys))
    assert {key: getattr(hyp, key) for key in keys} == keys
    assert words in capsys.readouterr().out


def test_a_file_with_yolov5s_keys(shared: Path) -> None:
    assert load_hyp(shared / "cases/yolov5-hyp-files/hyp_high_like.yaml").scale == 0.9


def test_a_recipe_serves_every_head(tmp_path: Path) -> None:
    hyp = load_hyp(write(tmp_path, lr0=0.5, box=0.1, free_dfl=2.0))
    assert isinstance(hyp, Hyp) and isinstance(hyp, AnchorRecipe) and isinstance(hyp, FreeRecipe)
    assert (hyp.lr0, hyp.box, hyp.free_dfl, hyp.obj) == (0.5, 0.1, 2.0, 1.0)
    assert next(iter(hyp.model_dump())) == "optimizer"
    written = load_hyp(write(tmp_path, **hyp.model_dump()))
    assert written == hyp
    assert pickle.loads(pickle.dumps(hyp)) == hyp  # as loader workers are sent it


def test_faults_of_any_head_are_found(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        load_hyp(write(tmp_path, fre_box=1.0, anchor_t=0.5, free_dfl=-1.0, fl_gamma=1.5))
    message = str(raised.value)
    assert "\n" not in message
    for part in (
        "fre_box: unknown key (did you mean 'free_box'?)",
        "anchor_t: expected greater than 1",
        "free_dfl: expected greater than or equal to 0, found -1.0",
        "fl_gamma: expected",
    ):
        assert part in message, message


class QueryKeys(Recipe):
    """Keys of a head that is not there yet."""

    query_noise: Share = 0.4


class QueryHead(DetectFree):
    """A head that is not there yet."""


def test_a_head_brings_its_own_keys(tmp_path: Path) -> None:
    heads = {**HEADS, QueryHead: HeadTraining("query.yaml", QueryKeys, AnchorLoss.from_hyp)}
    path = write(tmp_path, query_noise=0.3, box=0.1)
    hyp = load_hyp(path, heads=heads)
    assert isinstance(hyp, QueryKeys) and hyp.query_noise == 0.3
    with pytest.raises(UserError, match="query_noise: unknown key"):
        load_hyp(path)
    with pytest.raises(UserError, match=r"free_box: expected .*; query_nois: .*did you mean 'query_noise'"):
        load_hyp(write(tmp_path, query_nois=0.3, free_box=-1), heads=heads)


@pytest.mark.parametrize(("kind", "known"), [(Detect, Detect), (DetectFree, DetectFree), (QueryHead, DetectFree)])
def test_a_derived_head_is_trained_as_its_kind(kind: type[DetectionHead], known: type[DetectionHead]) -> None:
    assert training_of(kind.__new__(kind)) is HEADS[known]


def test_a_head_of_no_known_kind() -> None:
    with pytest.raises(UserError, match="no recipe and loss for Identity: expected .* one of Detect, DetectFree"):
        training_of(nn.Identity())  # type: ignore[arg-type]


def test_no_two_schemas_share_a_key() -> None:
    schemas = {Hyp, *(row.keys for row in HEADS.values())}
    for one, two in itertools.combinations(schemas, 2):
        assert not one.model_fields.keys() & two.model_fields.keys()


def test_every_head_is_trained_by_a_recipe_that_loads() -> None:
    for row in HEADS.values():
        assert isinstance(load_hyp(row.recipe), row.keys)


@pytest.mark.parametrize(
    ("hyp", "epochs", "batches", "autocast", "expected"),
    [
        (
            Hyp(optimizer="AdamW", lr0=0.002, nbs=16, warmup_share=0.1, ema_window=0.1, close_mosaic=0.25),
            40,
            13,
            torch.bfloat16,
            "AdamW at 0.002 to 2e-05, 520 steps of 16 images, the first 52 of 520 iterations warm up, "
            "weights averaged over 52 steps, mosaic until epoch 30, forward in bfloat16",
        ),
        (
            Hyp(),
            40,
            13,
            None,
            "SGD at 0.01 to 0.0001, 160 steps of 64 images, the first 100 of 520 iterations warm up, "
            "weights averaged as in YOLOv5, mosaic until epoch 40, forward in float32",
        ),
        (
            Hyp(mosaic=0.0, warmup_epochs=0.0),
            1,
            3,
            None,
            "SGD at 0.01 to 0.0001, 1 steps of 64 images, the first 0 of 3 iterations warm up, "
            "weights averaged as in YOLOv5, no mosaic, forward in float32",
        ),
    ],
)
def test_describe(hyp: Hyp, epochs: int, batches: int, autocast: torch.dtype | None, expected: str) -> None:
    schedule = Schedule(hyp, epochs=epochs, batches=batches, batch_size=16)
    optimizer = build_optimizer(hyp.optimizer, nn.Conv2d(3, 3, 1), lr=hyp.lr0, momentum=0.9, weight_decay=0.0)
    assert describe(schedule, optimizer=optimizer, autocast=autocast) == expected
