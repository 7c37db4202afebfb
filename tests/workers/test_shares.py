from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm import config as configuration
from spear_wasm.board import part_of
from spear_wasm.config import Config, Section
from spear_wasm.config_sources import parse_config
from spear_wasm.errors import ConfigurationError
from spear_wasm.workers import shares
from spear_wasm.workers.shares import DIVIDED, ONE_AT_LEAST, share_of, worker_count


@given(whole=st.integers(0, 10**12), places=st.integers(1, 64))
def test_parts_are_the_whole_and_as_equal_as_can_be(whole: int, places: int) -> None:
    parts = [part_of(whole, place, places) for place in range(places)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1


@given(places=st.integers(1, 16))
def test_all_shares_together_are_what_is_configured(places: int) -> None:
    whole = Config()
    shares = [share_of(whole, place, places) for place in range(places)]
    for table, keys in DIVIDED.items():
        for key in keys:
            together = sum(getattr(getattr(share, table), key) for share in shares)
            configured = getattr(getattr(whole, table), key)
            assert together == configured, key


def test_what_is_not_divided_is_as_it_was() -> None:
    whole, share = Config(), share_of(Config(), 0, 3)
    for table in msgspec.structs.fields(Config):
        for field in msgspec.structs.fields(table.type):
            if field.name not in DIVIDED.get(table.name, ()):
                assert getattr(getattr(share, table.name), field.name) == getattr(
                    getattr(whole, table.name), field.name
                )


def test_every_key_that_is_divided_is_there() -> None:
    for table, keys in DIVIDED.items():
        section: Section = getattr(Config(), table)
        assert all(hasattr(section, key) for key in keys)


@pytest.mark.parametrize(("table", "key"), [(table, key) for table, keys in DIVIDED.items() for key in keys])
def test_less_than_one_for_each_is_the_operators_mistake(table: str, key: str) -> None:
    config = parse_config({table: {key: 2}})
    assert getattr(getattr(share_of(config, 1, 2), table), key) == 1
    if key in ONE_AT_LEAST:
        assert getattr(getattr(share_of(config, 2, 3), table), key) == 1
    else:
        with pytest.raises(ConfigurationError, match=rf"{table}\.{key} is 2.*3 workers"):
            share_of(config, 2, 3)


def test_places_to_run_in_are_not_divided_but_there_must_be_one_for_each() -> None:
    config = parse_config({"execution": {"max_running": 2}})
    assert share_of(config, 1, 2).execution.max_running == 2
    with pytest.raises(ConfigurationError, match=r"execution\.max_running is 2.*3 workers"):
        share_of(config, 0, 3)


@pytest.mark.parametrize(
    ("config", "cores", "gib", "count"),
    [
        ({}, 4, 8, 4),
        ({"artifacts": {"max_uploads": 5}}, 64, 256, 5),
        ({"artifacts": {"max_uploads": 1000}, "batches": {"max_batches": 1000}}, 300, 1024, 256),
        ({"execution": {"max_running": 3}}, 4, 8, 3),
        ({"execution": {"max_records": 0, "threads": 1}}, 4, 8, 4),
        ({}, 4, 2, 3),  # of 1.5 GiB each 512 MiB
        ({"ceiling": {"max_memory": "64MiB"}}, 4, 2, 4),
        ({"ceiling": {"max_memory": "64MiB"}}, 4, 0.5, 2),
        ({"execution": {"max_total_memory": "1GiB"}}, 4, 64, 2),
        ({}, 4, 0.1, 1),
        ({"server": {"workers": 7}, "execution": {"max_running": 3}}, 4, 8, 7),
    ],
)
def test_there_is_one_for_each_core_as_far_as_memory_and_bounds_go(
    config: dict[str, object], cores: int, gib: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "usable_cores", lambda: cores)
    for module in (shares, configuration):
        monkeypatch.setattr(module, "usable_memory", lambda: int(gib * (1 << 30)))
    assert worker_count(parse_config(config)) == count
