"""AP and loss of one pass over the validation set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.randomize import randomize_
from tests.training.toy_run import MODEL, options, train
from yolorep.data.dataset import Dataset
from yolorep.data.loader import EvalBatch, eval_loader
from yolorep.evaluation.evaluator import evaluate
from yolorep.formats.pytorch import TorchBackend
from yolorep.models.detector import Detector, build_model
from yolorep.ops.letterbox import LetterBox
from yolorep.training.inputs import load_data
from yolorep.training.loggers.table import read_results
from yolorep.training.recipe import load_hyp
from yolorep.training.task import HEADS
from yolorep.training.validation import eval_targets, validate

CPU = torch.device("cpu")
ROWS = {
    "Detect": ["nc", "anchors"],
    "DetectFree": ["nc", 4],
    "one2one": ["nc", 4, True],
}


def model_and_loss(kind: str) -> tuple[Detector, Any]:
    head = "Detect" if kind == "Detect" else "DetectFree"
    torch.manual_seed(0)
    model = build_model(
        {**MODEL, "head": [[[1, 2], 1, head, ROWS[kind]]]}
        if head == "Detect"
        else {**MODEL, "anchors": None, "head": [[[1, 2], 1, head, ROWS[kind]]]}
    )
    model = randomize_(model).eval()
    hyp = load_hyp("cfg/hyp/yolorep.yaml")
    return model, HEADS[type(model.head)].loss(model.head, hyp, image_size=64)


@pytest.fixture
def dataset(work: Path) -> Dataset:
    return load_data(options(work))[1]


@pytest.mark.parametrize("kind", ROWS)
def test_one_pass_gives_the_ap_of_inference_and_the_loss_of_training(kind: str, dataset: Dataset) -> None:
    model, loss = model_and_loss(kind)
    runs: list[int] = []
    model.register_forward_hook(lambda *_: runs.append(1))
    scores = validate(model, dataset, loss=loss, device=CPU, batch_size=2)
    assert len(runs) == 2  # three images

    alone = evaluate(TorchBackend(model.for_inference()), dataset, batch_size=2)
    assert scores.metrics == alone.metrics

    expected: dict[str, float] = {}
    with torch.no_grad():
        for batch in eval_loader(dataset, batch_size=2, stride=model.max_stride):
            terms = loss(model(batch.images.float() / 255), eval_targets(batch, dataset.annotations)).parts
            for name, value in terms.items():
                expected[name] = expected.get(name, 0.0) + value.item() * len(batch.indices) / 3
    assert scores.losses == pytest.approx(expected, rel=1e-4)
    assert list(scores.losses) == (["box", "obj", "cls"] if kind == "Detect" else ["box", "cls", "dfl"])


def test_what_pictures_show_is_found_when_asked_for(dataset: Dataset) -> None:
    backend = TorchBackend(model_and_loss("Detect")[0])
    whole, without = (evaluate(backend, dataset, batch_size=2, pictures=pictures) for pictures in (True, False))
    assert (len(whole.detected), len(without.detected)) == (3, 0)
    assert whole.metrics == without.metrics and whole.curves.best_f1 == without.curves.best_f1


def test_every_branch_is_judged(dataset: Dataset) -> None:
    model, loss = model_and_loss("one2one")
    whole = validate(model, dataset, loss=loss, device=CPU, batch_size=3)
    without = validate(model.for_inference(), dataset, loss=loss, device=CPU, batch_size=3)
    assert whole.metrics == without.metrics
    assert whole.losses["box"] == without.losses["box"] and whole.losses["cls"] > 1.1 * without.losses["cls"]


@pytest.mark.parametrize("kind", ROWS)
def test_boxes_do_not_depend_on_branches_that_inference_drops(kind: str) -> None:
    model, _ = model_and_loss(kind)
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        whole = model.decode(model(image))
        deployed = model.for_inference()
        for one, other in zip(whole, deployed.decode(deployed(image)), strict=True):
            assert torch.equal(one, other)


def test_targets_lie_where_the_letterbox_puts_them(dataset: Dataset) -> None:
    source, target = (50, 100), (96, 128)
    box = LetterBox.plan(source, target)
    assert (box.resized, box.top, box.left) == ((64, 128), 16, 0)
    batch = EvalBatch(torch.zeros(2, 3, *target, dtype=torch.uint8), [2, 0], [box, box])
    targets = eval_targets(batch, dataset.annotations)
    labels = np.concatenate([dataset.annotations.labels(2), dataset.annotations.labels(0)])
    assert targets[:, 0].tolist() == [0, 1] and targets[:, 1].tolist() == labels[:, 0].tolist()
    xyxy = np.concatenate([labels[:, 1:3] - labels[:, 3:] / 2, labels[:, 1:3] + labels[:, 3:] / 2], axis=1)
    corners = box.boxes((xyxy * [100, 50, 100, 50]).astype(np.float32)) / [128, 96, 128, 96]
    found = targets[:, 2:].numpy()
    assert found[:, :2] == pytest.approx((corners[:, :2] + corners[:, 2:]) / 2, abs=1e-6)
    assert found[:, 2:] == pytest.approx(corners[:, 2:] - corners[:, :2], abs=1e-6)


def test_images_without_objects(work: Path) -> None:
    for path in (work / "labels" / "val").iterdir():
        path.write_text("")
    dataset = load_data(options(work))[1]
    model, loss = model_and_loss("DetectFree")
    scores = validate(model, dataset, loss=loss, device=CPU, batch_size=4)
    assert scores.losses["box"] == 0 and scores.losses["cls"] > 0 and scores.metrics["AP"] == -1


def test_in_the_table(work: Path) -> None:
    folder = train(options(work, epochs=2))
    rows = read_results(folder / "results.csv")
    assert list(rows[0])[:8] == [
        "epoch",
        *(f"{kind}/{term}" for kind in ("train", "val") for term in ("box", "obj", "cls")),
        "AP",
    ]
    assert all(float(row[f"val/{term}"]) > 0 for row in rows for term in ("box", "obj", "cls"))
    folder = train(options(work, epochs=2, noval=True))
    first, second = read_results(folder / "results.csv")
    assert first["val/box"] == "" and second["val/box"] == rows[1]["val/box"]
