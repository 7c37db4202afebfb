from __future__ import annotations

import pytest

from spear_wasm.rpc.convert import saturated


@pytest.mark.parametrize(
    ("count", "told"), [(0, 0), (2**31 - 1, 2**31 - 1), (2**31, 2**31 - 1), (2**40, 2**31 - 1)]
)
def test_a_counter_that_the_wire_cannot_hold_stays_at_the_most_that_it_can(count: int, told: int) -> None:
    assert saturated(count) == told
