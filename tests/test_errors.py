"""The error tree: every class has its status and its reason, and the drawing of the tree shows them all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest

from spear_wasm import errors
from spear_wasm.errors import SpearError, StatusCode

DRAWN = re.compile(r"^    [│ ]*(?:[├└]── )?(?P<name>[A-Z]\w+)(?P<rest>.*)$", re.MULTILINE)
BRANCHES = {"SpearError", "ArtifactError", "TaskError", "InstanceError", "GuestRuntimeError"}


def tree(root: type[SpearError]) -> Iterator[type[SpearError]]:
    for child in root.__subclasses__():
        yield child
        yield from tree(child)


# Only ours: a test may define classes of its own.
CLASSES = [each for each in tree(SpearError) if each.__module__ == errors.__name__]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_has_a_status_and_is_found_by_its_reason(error: type[SpearError]) -> None:
    assert error.status in StatusCode
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", error.reason)
    assert SpearError.by_reason[error.reason] is error


def test_no_two_errors_share_a_reason() -> None:
    assert [reason for reason, count in Counter(error.reason for error in CLASSES).items() if count > 1] == []


def test_a_class_with_a_reason_that_is_taken_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="share the reason TASK_NOT_FOUND"):
        type("Impostor", (SpearError,), {}, reason="TASK_NOT_FOUND")


def test_the_drawing_lists_every_class_with_its_status() -> None:
    drawn = {match["name"]: match["rest"] for match in DRAWN.finditer(errors.__doc__ or "")}
    assert drawn.keys() == {error.__name__ for error in CLASSES} | {"SpearError"}
    for error in CLASSES:
        if error.__name__ not in BRANCHES:
            assert error.status.name in drawn[error.__name__].replace(";", " ").split(), error.__name__


def test_the_drawing_puts_every_class_below_its_parent() -> None:
    drawing = errors.__doc__ or ""
    branch = SpearError.__name__
    for line in drawing.splitlines():
        match = DRAWN.fullmatch(line)
        if match is None or match["name"] == "SpearError":
            continue
        parent = getattr(errors, match["name"]).__base__.__name__
        if line.startswith(("    ├", "    └")):
            assert parent == "SpearError"
            branch = match["name"]
        else:
            assert parent == branch


def test_an_error_carries_its_message_its_facts_as_text_and_a_hint_when_to_try_again() -> None:
    error = errors.ServerBusy("the line is full", retry_after=1.5, waiting=2000)
    assert str(error) == error.message == "the line is full"
    assert error.retry_after == 1.5
    assert error.metadata == {"waiting": "2000"}


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_what_is_exhausted_always_says_when_to_try_again(error: type[SpearError]) -> None:
    expected = errors.RETRY_WHEN_FULL_SECONDS if error.status is StatusCode.RESOURCE_EXHAUSTED else None
    assert error("no").retry_after == expected
    assert error("no", retry_after=0.5).retry_after == 0.5


def test_waiting_does_not_help_unless_the_error_says_so() -> None:
    assert errors.TaskNotFound("there is no such task").retry_after is None


def test_statuses_have_the_numbers_of_the_wire() -> None:
    assert {code.name: code.value for code in StatusCode} == {
        code.name: grpc.StatusCode[code.name].value[0] for code in StatusCode
    }
