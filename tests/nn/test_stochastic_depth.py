from __future__ import annotations

import pytest
import torch
from torchvision.ops import StochasticDepth as Reference

from yolorep.nn.stochastic_depth import StochasticDepth


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("shape", [(64, 3, 2, 2), (64, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_is_torchvisions(p: float, shape: tuple[int, ...], training: bool) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found, expected = [], []
    for module, results in ((StochasticDepth(p), found), (Reference(p, mode="row"), expected)):
        torch.manual_seed(0)
        results.append(module.train(training)(x))
    torch.testing.assert_close(found, expected)
    assert (p > 0 and training) == bool((found[0] != x).any())
