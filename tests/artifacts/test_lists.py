from __future__ import annotations

import random

import msgspec
import pytest

from spear_wasm.artifacts import catalog
from spear_wasm.artifacts.store import StoredArtifact
from spear_wasm.errors import InvalidRequest
from tests.artifacts.fakes import module_info
from tests.artifacts.store_bench import ONE, TWO, StoreBench


def test_pages_go_through_all_artifacts_in_the_order_of_creation(bench: StoreBench) -> None:
    created = [f"name{number}:v" for number in random.Random(7).sample(range(100), 7)]
    for reference in created:
        bench.put(reference.encode(), *reference.split(":"))
    listed, token = [], ""
    while True:
        page, token = bench.store.list("", 3, token)
        assert len(page) <= 3
        listed += [f"{found.name}:{found.version}" for found in page]
        if not token:
            break
    assert listed == created


def test_the_last_full_page_says_that_it_is_the_last(bench: StoreBench) -> None:
    bench.put(ONE, "a")
    bench.put(TWO, "b")
    page, token = bench.store.list("", 2, "")
    assert (len(page), token) == (2, "")


def test_only_names_that_begin_with_the_prefix_are_listed(bench: StoreBench) -> None:
    for name in ("team/a", "team/b", "teamwork", "other", "Team/c", "t.am/x"):
        bench.put(ONE, name, "v")
    assert bench.names("team/") == ["team/a:v", "team/b:v"]
    assert bench.names("t") == ["team/a:v", "team/b:v", "teamwork:v", "t.am/x:v"]
    assert bench.names("t_am") == [], "no pattern means anything"


def test_no_page_has_more_than_a_thousand_and_none_said_is_a_hundred(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def page(prefix: str, *, after: int, size: int) -> tuple[list[StoredArtifact], int | None]:
        asked.append(size)
        return [], None

    monkeypatch.setattr(bench.store._catalog, "page", page)
    for size in (0, 1, 1000, 1001, 2**31 - 1):
        bench.store.list("", size, "")
    assert asked == [100, 1, 1000, 1000, 1000]


def test_pages_of_talkative_modules_end_early_and_hold_one_at_least(bench: StoreBench) -> None:
    bench.compiler.info = module_info(*(f"function{number}" for number in range(5000)))
    weight = len(msgspec.json.encode(bench.compiler.info))
    assert catalog.PAGE_BYTES / 3 < weight < catalog.PAGE_BYTES / 2
    for number in range(3):
        bench.put(b"module %d" % number, f"m{number}")
    bench.compiler.info = module_info("x" * (2 * catalog.PAGE_BYTES))
    bench.put(b"huge", "huge")
    pages, token = [], ""
    while True:
        page, token = bench.store.list("", 0, token)
        pages.append([found.name for found in page])
        if not token:
            break
    assert pages == [["m0", "m1"], ["m2"], ["huge"]]


def test_labels_count_against_a_page_too(bench: StoreBench) -> None:
    labels = {f"k{number}": "v" * 1024 for number in range(32)}
    for number in range(40):
        bench.upload(ONE, "calc", f"v{number}", labels=labels)
    page, token = bench.store.list("", 1000, "")
    assert sum(len(msgspec.json.encode(found.labels)) for found in page) <= catalog.PAGE_BYTES
    assert token


@pytest.mark.parametrize(
    "token", ["!", "AAAA", "LTE=", "é", "MTI=" * 20, "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OQ==", "1"]
)
def test_a_token_that_we_did_not_give_is_refused(bench: StoreBench, token: str) -> None:
    with pytest.raises(InvalidRequest, match="page_token"):
        bench.store.list("", 0, token)


@pytest.mark.parametrize("arguments", [("a b", 0), ("", -1)])
def test_malformed_lists_are_refused(bench: StoreBench, arguments: tuple[str, int]) -> None:
    with pytest.raises(InvalidRequest):
        bench.store.list(*arguments, "")


def test_a_token_outlives_what_it_points_at(bench: StoreBench) -> None:
    for name in ("a", "b", "c"):
        bench.put(name.encode(), name, "v")
    _, token = bench.store.list("", 2, "")
    bench.delete("b")
    bench.delete("c")
    bench.put(b"d", "d", "v")
    assert [found.name for found in bench.store.list("", 2, token)[0]] == ["d"]
