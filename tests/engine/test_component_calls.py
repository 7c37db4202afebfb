"""What components import from us: functions that answer, fail and wait, and resources that are lent and given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import pytest

from spear_wasm.component_world import ComponentWorld
from spear_wasm.engine.components.host_functions import ComponentFunction, ComponentResource
from spear_wasm.engine.components.linked import LinkedComponent
from spear_wasm.engine.components.sandbox import ComponentSandbox
from spear_wasm.engine.outcome import GuestExit, GuestFault
from spear_wasm.engine.wait import Wait
from spear_wasm.errors import UnlinkableArtifact
from spear_wasm.model import ErrorCode
from spear_wasm.wit.values import Err, Ok, Some, WitValue
from tests.components import MEMORY, bare, call, link, sandbox_of
from tests.workshop import Workshop, run_slice, run_to_end

THINGS = "lab:host/things"
CALLER = f"""(component
  (import "lab:host/things@1.2.3" (instance $things
    (export "thing" (type $thing (sub resource)))
    (export "[constructor]thing" (func (param "number" u32) (result (own $thing))))
    (export "[method]thing.number" (func (param "self" (borrow $thing)) (result u32)))
    (export "take" (func (param "thing" (own $thing))))
    (export "ask" (func (param "text" string) (result (result string (error u8)))))
    (export "sleep" (func (param "name" string) (result u32)))))
  (alias export $things "thing" (type $thing))
  (alias export $things "[constructor]thing" (func $make))
  (alias export $things "[method]thing.number" (func $number))
  (alias export $things "take" (func $take))
  (alias export $things "ask" (func $ask))
  (alias export $things "sleep" (func $sleep))
  (core module $memory {MEMORY})
  (core instance $m (instantiate $memory))
  (alias core export $m "memory" (core memory $mem))
  (core func $make_ (canon lower (func $make)))
  (core func $number_ (canon lower (func $number)))
  (core func $take_ (canon lower (func $take)))
  (core func $drop_ (canon resource.drop $thing))
  (core func $ask_ (canon lower (func $ask) (memory $mem) (realloc (core func $m "realloc"))))
  (core func $sleep_ (canon lower (func $sleep) (memory $mem)))
  (core module $guest
    (import "host" "make" (func $make (param i32) (result i32)))
    (import "host" "number" (func $number (param i32) (result i32)))
    (import "host" "take" (func $take (param i32)))
    (import "host" "drop" (func $drop (param i32)))
    (import "host" "ask" (func $ask (param i32 i32 i32)))
    (import "host" "sleep" (func $sleep (param i32 i32) (result i32)))
    (func (export "number-of-new") (param i32) (result i32)
      (local $thing i32)
      (local.set $thing (call $make (local.get 0)))
      (call $number (local.get $thing))
      (call $drop (local.get $thing)))
    (func (export "give-away") (param i32) (call $take (call $make (local.get 0))))
    (func (export "keep") (param i32) (drop (call $make (local.get 0))))
    (func (export "use-nothing") (drop (call $number (i32.const 77))))
    (func (export "ask") (param i32 i32) (result i32)
      (call $ask (local.get 0) (local.get 1) (i32.const 512))
      (i32.const 512))
    (func (export "sleep") (param i32 i32) (result i32)
      (i32.add (call $sleep (local.get 0) (local.get 1)) (call $sleep (local.get 0) (local.get 1)))))
  (core instance $g (instantiate $guest (with "host" (instance
    (export "make" (func $make_)) (export "number" (func $number_)) (export "take" (func $take_))
    (export "drop" (func $drop_)) (export "ask" (func $ask_)) (export "sleep" (func $sleep_))))))
  (func (export "number-of-new") (param "number" u32) (result u32) (canon lift (core func $g "number-of-new")))
  (func (export "give-away") (param "number" u32) (canon lift (core func $g "give-away")))
  (func (export "keep") (param "number" u32) (canon lift (core func $g "keep")))
  (func (export "use-nothing") (canon lift (core func $g "use-nothing")))
  (func (export "ask") (param "text" string) (result (result string (error u8)))
    (canon lift (core func $g "ask") (memory $mem) (realloc (core func $m "realloc"))))
  (func (export "sleep") (param "name" string) (result u32)
    (canon lift (core func $g "sleep") (memory $mem) (realloc (core func $m "realloc")))))"""


class Things:
    """What the host knows of what a guest did."""

    def __init__(self) -> None:
        self.made: dict[int, int] = {}
        self.dropped: list[int] = []
        self.taken: list[int] = []
        self.answer: Callable[[str], WitValue] = Ok
        self.waits: list[Wait] = []
        self.closed: list[str] = []

    def make(self, _sandbox: ComponentSandbox, number: int) -> int:
        rep = 1000 + len(self.made)
        self.made[rep] = number
        return rep

    def sleep(self, _sandbox: ComponentSandbox, name: str) -> Iterator[Wait]:
        try:
            wait = Wait()
            self.waits.append(wait)
            yield wait
        finally:
            self.closed.append(name)
        return len(self.waits)  # type: ignore[return-value]  # a generator's result

    def world(self, **types: str) -> ComponentWorld:
        kinds = {
            "[constructor]thing": "func(number: u32) -> own<thing>",
            "[method]thing.number": "func(self: borrow<thing>) -> u32",
            "take": "func(thing: own<thing>)",
            "ask": "func(text: string) -> result<string, u8>",
            "sleep": "func(name: string) -> u32",
        } | types
        implementations: dict[str, Callable[..., object]] = {
            "[constructor]thing": self.make,
            "[method]thing.number": lambda _, rep: self.made[rep],
            "take": lambda _, rep: self.taken.append(rep),
            "ask": lambda _, asked: self.answer(asked),
            "sleep": self.sleep,
        }
        return ComponentWorld(
            "test",
            [
                ComponentFunction(THINGS, name, kinds[name], implementation, waits=name == "sleep")  # type: ignore[arg-type]  # of as many kinds as functions
                for name, implementation in implementations.items()
            ],
            [ComponentResource(THINGS, "thing", lambda _, rep: self.dropped.append(rep))],
        )


@pytest.fixture
def things() -> Things:
    return Things()


@pytest.fixture
def caller(workshop: Workshop, things: Things) -> LinkedComponent:
    _, module = workshop.compiled(CALLER)
    return link(workshop, CALLER, things.world().needed_by(module))


def test_resources_are_made_lent_and_dropped(caller: LinkedComponent, things: Things) -> None:
    with sandbox_of(caller) as sandbox:
        assert [call(sandbox, "number-of-new", number) for number in (7, 8)] == [7, 8]
    assert things.dropped == [1000, 1001]


def test_a_resource_that_is_given_away_is_the_hosts(caller: LinkedComponent, things: Things) -> None:
    with sandbox_of(caller) as sandbox:
        call(sandbox, "give-away", 7)
    assert (things.taken, things.dropped) == ([1000], [])


def test_a_resource_that_a_guest_keeps_is_not_dropped_by_its_end(
    caller: LinkedComponent, things: Things
) -> None:
    with sandbox_of(caller) as sandbox:
        call(sandbox, "keep", 7)
    assert things.dropped == []


def test_a_handle_that_the_guest_does_not_have_is_its_own_fault(caller: LinkedComponent) -> None:
    with sandbox_of(caller) as sandbox, pytest.raises(GuestFault, match="unknown handle") as caught:
        call(sandbox, "use-nothing")
    assert caught.value.code is ErrorCode.TRAP_OTHER


@pytest.mark.parametrize("answer", [Ok("yes"), Err(3)])
def test_what_a_host_function_returns_arrives(
    caller: LinkedComponent, things: Things, answer: WitValue
) -> None:
    things.answer = lambda _: answer
    with sandbox_of(caller) as sandbox:
        assert call(sandbox, "ask", "Grüße") == answer


@pytest.mark.parametrize(
    "error", [GuestFault(ErrorCode.GUEST_ERROR, "no"), GuestExit(3), RuntimeError("a mistake of the host's")]
)
def test_what_a_host_function_raises_ends_its_guest(
    caller: LinkedComponent, things: Things, error: Exception
) -> None:
    def fail(_text: str) -> WitValue:
        raise error

    things.answer = fail
    with sandbox_of(caller) as sandbox, pytest.raises(type(error)) as caught:
        call(sandbox, "ask", "")
    assert caught.value is error


@pytest.mark.parametrize("answer", ["text", Ok(3), Err("text"), Err(256), Ok("\ud800"), None])
def test_a_host_function_that_returns_another_type_ends_its_guest_and_nothing_else(
    caller: LinkedComponent, things: Things, answer: WitValue
) -> None:
    things.answer = lambda _: answer
    with sandbox_of(caller) as sandbox, pytest.raises(Exception) as caught:  # noqa: PT011  of several kinds
        call(sandbox, "ask", "")
    assert not isinstance(caught.value, GuestFault)


def test_a_guest_rests_until_what_it_waits_for_is_over(caller: LinkedComponent, things: Things) -> None:
    with sandbox_of(caller) as sandbox, closing(sandbox.call("", "sleep", ("name",))) as steps:
        wait = run_until_it_waits(sandbox, steps)
        assert wait is things.waits[0]
        run_slice(sandbox, steps)  # nothing is over
        assert (sandbox.waits_for, len(things.waits)) == (wait, 1)
        thread = threading.Thread(target=wait.end)
        thread.start()
        thread.join()
        while not things.closed:
            run_slice(sandbox, steps)


def test_what_functions_that_waited_return_arrives(caller: LinkedComponent, things: Things) -> None:
    with sandbox_of(caller) as sandbox, closing(sandbox.call("", "sleep", ("name",))) as steps:
        for number in range(2):
            while len(things.waits) == number:
                run_slice(sandbox, steps)
            things.waits[number].end()
        assert run_to_end(sandbox, steps) == 3


def test_a_guest_that_is_ended_while_it_waits_lets_its_host_function_clean_up(
    caller: LinkedComponent, things: Things
) -> None:
    with sandbox_of(caller) as sandbox:
        steps = sandbox.call("", "sleep", ("name",))
        run_until_it_waits(sandbox, steps)
        assert things.closed == []
        steps.close()
        assert things.closed == ["name"]


def run_until_it_waits(sandbox: ComponentSandbox, steps: Generator[None, None, object]) -> Wait:
    """However many slices that takes."""
    while sandbox.waits_for is None:
        run_slice(sandbox, steps)
    return sandbox.waits_for


DEEPEST = 97
"""Types in each other that the engine takes."""


def test_the_deepest_types_are_read_and_written_on_the_guests_stack(workshop: Workshop) -> None:
    levels = "".join(f"(type $t{n} (option $t{n - 1}))" for n in range(1, DEEPEST + 1))
    source = f"""(component (type $t0 u8) {levels}
      (import "f" (func $f (param "x" $t{DEEPEST}) (result $t{DEEPEST})))
      (core module $memory {MEMORY} (data (i32.const 64) "{chr(92)}01{(chr(92) + "01") * DEEPEST}"))
      (core instance $m (instantiate $memory))
      (alias core export $m "memory" (core memory $mem))
      (core func $f_ (canon lower (func $f) (memory $mem) (realloc (core func $m "realloc"))))
      (core module $guest
        (import "host" "f" (func $f (param i32 i32)))
        (func (export "run") (call $f (i32.const 64) (i32.const 512))))
      (core instance $g (instantiate $guest (with "host" (instance (export "f" (func $f_))))))
      (func (export "run") (canon lift (core func $g "run"))))"""
    kind = f"{'option<' * DEEPEST}u8{'>' * DEEPEST}"
    seen: list[WitValue] = []

    def echo(_sandbox: ComponentSandbox, value: WitValue) -> WitValue:
        seen.append(value)
        return value

    world = ComponentWorld("test", [ComponentFunction("", "f", f"func(x: {kind}) -> {kind}", echo)])
    _, module = workshop.compiled(source)
    with sandbox_of(link(workshop, source, world.needed_by(module))) as sandbox:
        call(sandbox, "run")
    (value,) = seen
    depth = 1
    while isinstance(value, Some):
        value, depth = value.value, depth + 1
    assert (value, depth) == (1, DEEPEST)


# --- at the door ------------------------------------------------------------------------------------------


def refusal(workshop: Workshop, world: ComponentWorld) -> UnlinkableArtifact:
    _, module = workshop.compiled(CALLER)
    assert not world.provides_all(module)
    with pytest.raises(UnlinkableArtifact) as caught:
        world.needed_by(module)
    return caught.value


def test_an_import_of_another_type_is_refused_with_what_there_is(workshop: Workshop, things: Things) -> None:
    message = refusal(workshop, things.world(ask="func(text: string) -> string")).message
    assert "ask" in message
    assert "here it is 'func(text: string) -> string'" in message


def test_imports_that_nobody_provides_are_refused_with_the_nearest(
    workshop: Workshop, things: Things
) -> None:
    world = ComponentWorld(
        "test",
        [ComponentFunction(THINGS, "asks", "func()", things.make)],
        [ComponentResource(THINGS, "thin", print)],
    )
    refused = refusal(workshop, world)
    assert "lab:host/things#asks" in refused.message
    assert refused.metadata["missing"] == "6"


def test_two_resources_cannot_have_one_name() -> None:
    resources = [ComponentResource(interface, "thing", print) for interface in ("a:b/c", "d:e/f")]
    with pytest.raises(ValueError, match="two resources named thing"):
        ComponentWorld("test", (), resources)


def test_a_start_function_may_call_the_host(workshop: Workshop, things: Things) -> None:
    source = """(component
      (import "lab:host/things" (instance $things (export "sleep" (func (param "name" string) (result u32)))))
      (alias export $things "sleep" (func $sleep))
      (core module $memory (memory (export "memory") 1))
      (core instance $m (instantiate $memory))
      (core func $sleep_ (canon lower (func $sleep) (memory (core memory $m "memory"))))
      (core module $guest
        (import "host" "sleep" (func $sleep (param i32 i32) (result i32)))
        (func $start (drop (call $sleep (i32.const 0) (i32.const 0))))
        (start $start))
      (core instance (instantiate $guest (with "host" (instance (export "sleep" (func $sleep_)))))))"""
    _, module = workshop.compiled(source)
    with bare(link(workshop, source, things.world().needed_by(module))) as sandbox:
        steps = sandbox.instantiate()
        run_until_it_waits(sandbox, steps).end()
        run_to_end(sandbox, steps)
    assert things.closed == [""]
