"""--batch-size -1: the search with costs that are made up, and a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.toy_run import options, same_weights, train
from yolorep.config import Hyp
from yolorep.errors import UserError
from yolorep.losses.terms import LossTerms
from yolorep.models.detector import Detector
from yolorep.options import FIND_BATCH_SIZE
from yolorep.training.batch_size import Cost, choose_batch_size, fastest, measure
from yolorep.training.inputs import new_run, read_options


class Machine:
    """Steps that cost what they are said to, on a clock of their own."""

    def __init__(
        self,
        seconds: Callable[[int], float] = lambda batch: 1.0,
        *,
        memory: Callable[[int], float] = lambda batch: batch,
        crash_at: float = float("inf"),
    ) -> None:
        self.seconds, self.memory, self.crash_at = seconds, memory, crash_at
        self.now = 5.0
        self.tried: list[int] = []

    def __call__(self, batch: int) -> Cost:
        self.tried.append(batch)
        if batch >= self.crash_at:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.now += self.seconds(batch)
        return Cost(self.seconds(batch), self.memory(batch))

    def found(self, *, most: int = 64, memory: float = 1e9, seconds: float = float("inf")) -> list[int]:
        return [batch for batch, _ in measure(self, most=most, memory=memory, seconds=seconds, clock=lambda: self.now)]


@pytest.mark.parametrize(
    ("machine", "limits", "found", "tried"),
    [
        (Machine(), {}, [1, 2, 4, 8, 16, 32, 64], 64),
        (Machine(), {"most": 6}, [1, 2, 4], 4),
        # 100 bytes and 10 an image: 32 images would take 420
        (Machine(memory=lambda batch: 100 + 10 * batch), {"memory": 400}, [1, 2, 4, 8, 16], 16),
        # what grows faster than foreseen is tried, and not taken
        (Machine(memory=lambda batch: batch**3), {"memory": 200}, [1, 2, 4], 8),
        (Machine(crash_at=8), {}, [1, 2, 4], 8),
        (Machine(crash_at=1), {}, [], 1),
        (Machine(memory=lambda batch: 500), {"memory": 400}, [], 1),
        # 1 + 2 + 4 seconds; the next ones would take 8
        (Machine(lambda batch: batch), {"seconds": 14}, [1, 2, 4], 4),
        (Machine(lambda batch: 30.0), {"seconds": 20}, [1], 1),
    ],
)
def test_sizes_are_doubled_as_long_as_they_fit(
    machine: Machine, limits: dict[str, float], found: list[int], tried: int
) -> None:
    assert machine.found(**limits) == found
    assert machine.tried[-1] == tried


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        ({1: 60, 2: 41, 4: 30, 8: 26, 16: 23.1, 32: 22.7, 64: 22.9}, 16),
        ({1: 10, 2: 10, 4: 10}, 1),
        ({1: 10, 2: 9, 4: 8}, 4),
        ({1: 8.3, 2: 9, 4: 8}, 1),
        ({1: 8.5, 2: 9, 4: 8}, 4),
        ({1: 7}, 1),
    ],
)
def test_the_smallest_of_the_fast_ones(milliseconds: dict[int, float], expected: int) -> None:
    assert fastest({batch: Cost(each * batch / 1000, 0) for batch, each in milliseconds.items()}) == expected


@pytest.mark.parametrize("kind", ["Detect", "DetectFree"])
def test_a_model_is_measured_and_stays_as_it_is(work: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {} if kind == "Detect" else {"cfg": "cfg/yolorep/n.yaml"}
    run = new_run(options(work, **changes))
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    steps: list[int] = []

    def make_loss(model: Detector, recipe: Hyp) -> Callable[..., LossTerms]:
        loss = run.make_loss(model)
        return lambda raw, targets: (steps.append(len(raw.levels[0])), loss(raw, targets))[1]

    chosen = choose_batch_size(replace(run, own_loss=make_loss))
    assert chosen in (1, 2, 4) and set(steps) == {1, 2, 4}
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())
    out = capsys.readouterr().out
    assert f"--batch-size -1: {chosen} images a step (1: " in out and " ms an image" in out


def test_too_large_an_image(work: Path) -> None:
    run = new_run(options(work))

    def no_room(raw: object, targets: object) -> LossTerms:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="--batch-size -1: not even one image of 64 pixels fits cpu; lower --imgsz"):
        choose_batch_size(replace(run, own_loss=lambda model, recipe: no_room))


def test_a_run_with_the_size_found_is_a_run_with_that_size(work: Path) -> None:
    found = train(options(work, epochs=1, batch_size=FIND_BATCH_SIZE, name="found"))
    size = read_options(found / "args.yaml").batch_size
    assert size in (1, 2, 4)
    assert same_weights(found, train(options(work, epochs=1, batch_size=size, name="told")))
