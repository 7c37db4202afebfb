"""The configuration: what operators write, and what they are told when it is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spear_wasm.config import Config, Seconds, Size
from spear_wasm.config_sources import effective_config, keys, parse_config, written
from spear_wasm.errors import ConfigurationError
from spear_wasm.limits import Limits

TABLES = {field.name: field.type for field in msgspec.structs.fields(Config)}
KEYS = [(table, field.name) for table, section in TABLES.items() for field in msgspec.structs.fields(section)]

LIMITS = ("default_limits", "ceiling")  # checked against each other besides


def refusal(document: dict[str, Any]) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as refused:
        parse_config(document)
    return refused.value


def keys_of(kind: type) -> Iterator[tuple[str, str]]:
    for table, key in KEYS:
        if isinstance(getattr(getattr(Config(), table), key), kind):
            yield table, key


def read_config(path: Path) -> Config:
    """What a file says, and nothing else."""
    return effective_config(path, {}, {}).config


# --- what is written --------------------------------------------------------------------------------------


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "spear.toml"
    path.write_text("", encoding="utf-8")
    assert read_config(path) == parse_config({}) == Config()


def test_sizes_and_durations_are_written_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "spear.toml"
    path.write_text(
        """
        [server]
        shutdown_grace = "1m30s"

        [artifacts]
        max_artifact = "1.5MiB"
        max_disk = 1073741824

        [default_limits]
        max_wall_time = 2
        """,
        encoding="utf-8",
    )
    config = read_config(path)
    assert float(config.server.shutdown_grace) == 90
    assert config.artifacts.max_artifact == 3 << 19
    assert config.artifacts.max_disk == 1 << 30
    assert config.default_limits.limits().max_wall_time_ms == 2000


def test_a_table_of_limits_becomes_the_limits_in_force() -> None:
    config = parse_config({"default_limits": {"max_memory": "1MiB", "max_cpu_time": "1.5s", "max_fuel": 7}})
    assert config.default_limits.limits() == Limits(
        max_memory_bytes=1 << 20,
        max_fuel=7,
        max_cpu_time_ms=1500,
        max_table_elements=20_000,
        max_input_bytes=4 << 20,
        max_output_bytes=4 << 20,
        max_log_bytes=64 << 10,
        max_concurrency=1000,
        max_wall_time_ms=30_000,
    )


@pytest.mark.parametrize(("table", "key"), [each for each in keys_of(Size) if each[0] not in LIMITS])
@given(count=st.integers(1, 10**14))
def test_a_size_may_be_a_number_or_a_text(table: str, key: str, count: int) -> None:
    for value in (count, str(count), f"{count}B"):
        assert getattr(getattr(parse_config({table: {key: value}}), table), key) == count


def test_memory_and_threads_are_measured_where_they_are_not_configured() -> None:
    execution = Config().execution
    assert execution.total_memory() >= 1 << 20
    assert execution.thread_count() >= 1
    configured = parse_config({"execution": {"max_total_memory": "1GiB", "threads": 3}}).execution
    assert configured.total_memory() == 1 << 30
    assert configured.thread_count() == 3


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_a_value_of_another_type_is_refused_by_its_key(table: str, key: str) -> None:
    assert f"{table}.{key}: " in refusal({table: {key: [True]}}).message


@pytest.mark.parametrize(("table", "key"), [*keys_of(Size), *keys_of(Seconds)])
@pytest.mark.parametrize("value", [-1, math.inf, math.nan, -math.inf, 1e300, True, "5 parsecs", "-1s"])
def test_a_size_or_duration_that_makes_no_sense_is_refused_by_its_key(
    table: str, key: str, value: object
) -> None:
    assert f"{table}.{key}: " in refusal({table: {key: value}}).message


@pytest.mark.parametrize("table", LIMITS)
@pytest.mark.parametrize("key", ["max_memory", "max_table_elements", "max_input", "max_concurrency"])
def test_a_limit_of_zero_is_refused_by_its_table_and_name(table: str, key: str) -> None:
    error = refusal({table: {key: 0}})
    assert error.message.startswith(f"{table}: limit {key}")
    assert error.metadata["limit"].startswith(key)


def test_a_count_below_one_is_refused() -> None:
    assert "execution.max_running: " in refusal({"execution": {"max_running": 0}}).message


@pytest.mark.parametrize("document", [{"sevrer": {}}, {"server": {"shutdown_grase": 1}}])
def test_an_unknown_key_is_refused_by_its_name(document: dict[str, dict[str, int]]) -> None:
    unknown = next(iter(document["server"])) if "server" in document else "sevrer"
    assert unknown in refusal(document).message


def test_more_sandboxes_than_the_engine_has_are_refused() -> None:
    document = {"execution": {"max_running": 11}, "pool": {"max_ready": 10}, "engine": {"sandboxes": 20}}
    assert refusal(document).message == (
        "execution.max_running (11) and pool.max_ready (10) together exceed engine.sandboxes (20)"
    )
    document["engine"]["sandboxes"] = 21
    assert parse_config(document).engine.sandboxes == 21


def test_streams_without_room_for_a_message_are_refused() -> None:
    assert "execution.max_unread is 0" in refusal({"execution": {"max_unread": 0}}).message


@pytest.mark.parametrize("tick", [0, "100us", "101ms"])
def test_a_tick_that_would_starve_guests_or_the_server_is_refused(tick: object) -> None:
    assert "must be between 0.5 ms and 100 ms" in refusal({"engine": {"tick": tick}}).message


@pytest.mark.parametrize("key", ["max_lifetime", "max_idle", "season"])
def test_a_pool_without_time_is_refused(key: str) -> None:
    assert f"pool.{key} is 0" in refusal({"pool": {key: 0}}).message


@pytest.mark.parametrize("upkeep", [0, "9ms", "61s"])
def test_an_upkeep_that_never_rests_or_comes_too_late_is_refused(upkeep: object) -> None:
    assert "pool.upkeep is" in refusal({"pool": {"upkeep": upkeep}}).message


@pytest.mark.parametrize(("key", "known"), [("scheduling", "round_robin"), ("scaling", "predictive")])
def test_an_unknown_policy_is_refused_by_its_key(key: str, known: str) -> None:
    assert f"pool.{key}: " in refusal({"pool": {key: "best"}}).message
    assert getattr(parse_config({"pool": {key: known}}).pool, key) == known


def test_a_default_above_its_ceiling_is_refused() -> None:
    error = refusal({"ceiling": {"max_memory": "1MiB"}})
    assert error.message == "default_limits max_memory_bytes is 67108864, above its ceiling of 1048576"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[server", "Expected ']'"),
        (b"\xff\xfe", "invalid start byte"),
        (b"bogus = 1", "there is no key bogus"),
        (b"[ceiling]\nmax_memory = 0", "limit max_memory_bytes is 0"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "spear.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as refused:
        read_config(path)
    assert str(path) in refused.value.message
    assert why in refused.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: No such file or directory"):
        read_config(tmp_path / "nowhere.toml")


# --- where it comes from ----------------------------------------------------------------------------------


def test_a_flag_goes_before_the_environment_that_before_the_file_that_before_the_default(
    tmp_path: Path,
) -> None:
    file = tmp_path / "spear.toml"
    file.write_text("[execution]\nmax_running = 11\nmax_pending = 12\nthreads = 13\n", encoding="utf-8")
    environment = {"SPEAR_WASM_EXECUTION_MAX_PENDING": "22", "SPEAR_WASM_EXECUTION_THREADS": "23"}
    effective = effective_config(file, environment, {"execution.threads": "33"})
    execution = effective.config.execution
    assert (execution.max_running, execution.max_pending, execution.threads) == (11, 22, 33)
    assert effective.sources == {
        "execution.max_running": str(file),
        "execution.max_pending": "SPEAR_WASM_EXECUTION_MAX_PENDING",
        "execution.threads": "--execution-threads",
    }
    assert effective.source(keys()["execution.max_tasks"]) == "default"


def test_every_key_has_a_variable_and_a_flag_of_its_own() -> None:
    assert list(keys()) == [f"{table}.{key}" for table, key in KEYS]
    assert (
        len({key.variable for key in keys().values()})
        == len({key.flag for key in keys().values()})
        == len(KEYS)
    )


@pytest.mark.parametrize("name", [f"{table}.{key}" for table, key in KEYS])
def test_what_is_in_force_can_be_written_into_the_environment_and_means_the_same(name: str) -> None:
    key = keys()[name]
    effective = effective_config(None, {key.variable: written(key.default)}, {})
    assert effective.config == Config()
    assert effective.source(key) == key.variable


def test_several_values_in_a_text_are_separated_by_commas() -> None:
    given = effective_config(None, {"SPEAR_WASM_RUNTIMES_DIRECTORIES": "/a, /b:c"}, {})
    assert given.config.runtimes.directories == ("/a", "/b:c")


@pytest.mark.parametrize("text", ["many", "0", "1.5", ""])
def test_a_bad_value_is_refused_by_its_key_and_where_it_was_set(text: str, tmp_path: Path) -> None:
    file = tmp_path / "spear.toml"
    file.write_text(f'[execution]\nmax_running = "{text}"\n', encoding="utf-8")
    variable, flag = "SPEAR_WASM_EXECUTION_MAX_RUNNING", "--execution-max-running"
    attempts: dict[str, tuple[Path | None, dict[str, str], dict[str, str]]] = {
        str(file): (file, {}, {}),
        variable: (None, {variable: text}, {}),
        flag: (None, {}, {"execution.max_running": text}),
    }
    for source, layers in attempts.items():
        with pytest.raises(ConfigurationError) as refused:
            effective_config(*layers)
        assert refused.value.message.startswith(f"{source}: execution.max_running: ")


def test_values_that_do_not_go_together_are_refused_with_where_they_were_set() -> None:
    with pytest.raises(ConfigurationError) as refused:
        effective_config(None, {"SPEAR_WASM_CEILING_MAX_MEMORY": "1MiB"}, {"engine.sandboxes": "1000"})
    assert refused.value.message.endswith("(ceiling.max_memory is set by SPEAR_WASM_CEILING_MAX_MEMORY)")
    with pytest.raises(ConfigurationError) as refused:
        effective_config(None, {}, {"engine.sandboxes": "20"})
    assert refused.value.message.endswith("(engine.sandboxes is set by --engine-sandboxes)")


@pytest.mark.parametrize(
    ("document", "near"),
    [
        ({"server": {"shutdown_grase": 1}}, "server.shutdown_grace"),
        ({"sevrer": {}}, "server"),
        ({"sevrer": {"shutdown_grace": 1}}, "server"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(document: dict[str, Any], near: str) -> None:
    assert refusal(document).message.endswith(f"did you mean {near}?")


def test_a_value_in_place_of_a_table_is_refused() -> None:
    assert "execution is a table" in refusal({"execution": 1}).message
