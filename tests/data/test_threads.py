"""Several threads looking at images."""

from __future__ import annotations

import time

import pytest

from yolorep.data.threads import for_images


def test_results_keep_their_order() -> None:
    assert for_images(lambda number: number * number, range(50), desc="squares") == [n * n for n in range(50)]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_after_an_error_no_more_begin(error: type[BaseException]) -> None:
    begun = []

    def look(number: int) -> None:
        begun.append(number)
        time.sleep(0.01)
        if number == 3:
            raise error

    with pytest.raises(error):
        for_images(look, range(5_000), desc="looking")
    assert len(begun) < 4_000
