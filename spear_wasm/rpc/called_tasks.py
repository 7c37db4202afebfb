"""The tasks of calls: those that are there, and those that are made of the spec that a call brings."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from msgspec import structs

from spear_wasm.api import function_pb2 as pb
from spear_wasm.errors import InvalidRequest, SpearError, TaskBusy, TaskNotFound
from spear_wasm.execution.execution import execution_of
from spear_wasm.model import ExecutionMode
from spear_wasm.rpc import convert
from spear_wasm.rpc.invocations import asks_for_existing, call_from
from spear_wasm.rpc.others import Retirement
from spear_wasm.rpc.waiting import SharedWork, in_thread
from spear_wasm.values import shown

if TYPE_CHECKING:
    from spear_wasm.execution.execution import Call
    from spear_wasm.execution.task import Task
    from spear_wasm.host import Host
    from spear_wasm.rpc.others import Others

Accepted = TypeVar("Accepted")

REGISTRATION_THREADS = 8
FETCHING_THREADS = 4
MAX_REGISTRATIONS = 64
"""Calls that may wait at once for their task to be made or linked."""
KNOWN_SPECS = 4096


class CalledTasks:
    """Finds and makes the tasks that calls want, and has the calls submitted.

    For the event loop's thread, but for `submit_at_once`, which only reads what that thread writes, on any thread.

    A task that was made for a call stays once a call of it is accepted, or whoever wanted it has hung up. Where all
    calls that want it are refused, it goes again before the last of them hears so. (One that is then not taken by
    the disk was accepted before: its task stays.)
    """

    def __init__(self, host: Host, others: Others) -> None:
        self._host = host
        self._others = others
        self._registrations = SharedWork(REGISTRATION_THREADS, MAX_REGISTRATIONS, "spear-registration")
        self._fetching = SharedWork(FETCHING_THREADS, MAX_REGISTRATIONS, "spear-fetching")
        self._removals = ThreadPoolExecutor(1, "spear-removal")
        self._deleting: set[asyncio.Task[int]] = set()
        # Tasks by the bytes of the spec that asked for them: most callers send the same spec with every call.
        # Valid for one generation of the artifact store, in which every name means one digest.
        self._known_specs: dict[tuple[str, bytes], Task] = {}
        self._generation = b""
        self._wanted: Counter[Task] = Counter()
        """How many calls want each task that was made for one of them, while none has been accepted."""

    def close(self) -> None:
        """Wait for what the threads still do."""
        self._fetching.close()
        self._registrations.close()
        self._removals.shutdown()

    async def submit(
        self,
        request: pb.InvokeFunctionRequest,
        time_remaining: Callable[[], float | None],
        submit: Callable[[Call], Accepted],
        check: Callable[[Call], object] = execution_of,
    ) -> Accepted:
        """What `submit` makes of the call that a request asks for, once its task is there and linked.

        `time_remaining` tells the seconds that the RPC has left. `check` refuses a call that does not fit its task.

        Raises:
            SpearError: why the call is refused, by `submit` or before; no task is left that was made for it alone.
        """
        task = await self._task_for(request, check)
        try:
            accepted = submit(await self._linked(_call_of(request, task, time_remaining)))
        except SpearError:
            if self._want_no_more(task):
                await self._take_away(task)
            raise
        except BaseException:
            self._wanted.pop(task, None)
            raise
        self._wanted.pop(task, None)
        return accepted

    def submit_at_once(
        self,
        request: pb.InvokeFunctionRequest,
        time_remaining: Callable[[], float | None],
        submit: Callable[[Call], Accepted],
    ) -> Accepted | None:
        """The same for a call whose task is there and linked; None where something has to be done first.

        Raises:
            SpearError: why the call is refused.
        """
        if not self._host.registration.is_current:
            return None
        task = self._known_task(request)
        if task is None or task.deleted or task in self._wanted:
            return None
        call = _call_of(request, task, time_remaining)
        try:
            return submit(call) if _is_metered(call) in task.linkages else None
        except TaskNotFound:  # it was deleted meanwhile; a spec may make it anew
            return None

    async def delete(self, reference: str, *, force: bool, forget_records: bool) -> int:
        """End a task; returns how many records of executions were forgotten with it.

        Raises:
            TaskNotFound: there is none of that id or name.
            TaskBusy: it has executions and `force` is not set.
            WorkerSilent: a worker does not tell whether it has.
        """
        await self.catch_up()
        task = self._host.tasks.get(reference)
        # To its end even where the caller hangs up: no worker may accept again while another one deletes.
        deleting = asyncio.create_task(self._delete(task, force=force, forget_records=forget_records))
        self._deleting.add(deleting)
        deleting.add_done_callback(self._on_deleted)
        return await asyncio.shield(deleting)

    def _on_deleted(self, deleting: asyncio.Task[int]) -> None:
        self._deleting.discard(deleting)
        if not deleting.cancelled():
            deleting.exception()  # whoever waited has it; where nobody does any more, it is nobody's

    async def _delete(self, task: Task, *, force: bool, forget_records: bool) -> int:
        delete = self._host.delete_task
        forgotten = await self._others.retire(Retirement(task.id, force, forget_records))
        try:
            return await self._registrations.run(
                object(),
                lambda: delete(task, force=force, forget_records=forget_records, forgotten=forgotten),
            )
        except BaseException:
            await self._others.reinstate(task.id)
            raise

    async def catch_up(self) -> None:
        """Return when the tasks are those that there are, whichever worker made or ended them.

        Raises:
            ServerBusy: too much else is to be done.
        """
        if not self._host.registration.is_current:
            await self._registrations.run("catch up", self._host.registration.catch_up)

    async def _task_for(self, request: pb.InvokeFunctionRequest, check: Callable[[Call], object]) -> Task:
        await self.catch_up()
        if asks_for_existing(request):
            reference = request.task_id or request.task_name
            task = self._host.tasks.find(reference) if reference else None
            if task is not None and not task.deleted:
                self._want(task)
                return task
            if not (request.create_if_not_exists and request.HasField("artifact_spec")):
                raise TaskNotFound(f"there is no task {shown(reference)}", task=reference)
        elif not request.HasField("artifact_spec"):
            raise InvalidRequest(
                "a new task needs an artifact_spec; to call an existing one, give its task_id"
            )
        task = await self._task_from_spec(request, check)
        while task.deleted:  # since it was found
            task = await self._task_from_spec(request, check)
        return task

    async def _task_from_spec(
        self, request: pb.InvokeFunctionRequest, check: Callable[[Call], object]
    ) -> Task:
        generation = self._host.artifacts.generation
        if generation != self._generation or len(self._known_specs) >= KNOWN_SPECS:
            self._known_specs.clear()
            self._generation = generation
        key = _key_of(request)
        task = self._known_specs.get(key)
        if task is not None and not task.deleted:
            self._want(task)
            return task
        task = await self._planned(request, key)
        if task.is_planned:
            # Before anybody can see the task: most refusals need none.
            check(call_from(request, task, None))
            self._host.manager.check_open()
            task = await self._established(task, key)
        else:
            self._want(task)
        if generation == self._generation:
            self._known_specs[key] = task
        return task

    def _known_task(self, request: pb.InvokeFunctionRequest) -> Task | None:
        if asks_for_existing(request):
            return self._host.tasks.find(request.task_id or request.task_name)
        if self._host.artifacts.generation != self._generation:
            return None
        return self._known_specs.get(_key_of(request))

    async def _planned(self, request: pb.InvokeFunctionRequest, key: tuple[str, bytes]) -> Task:
        spec = convert.spec_from(request.artifact_spec)
        name, description = request.task_name, request.task_description
        registration = self._host.registration
        # What is fetched may be slow to come, and holds up nobody who needs nothing fetched.
        planning = self._fetching if spec.location else self._registrations
        return await planning.run(("plan", key), lambda: registration.plan(spec, name, description))

    async def _established(self, planned: Task, key: tuple[str, bytes]) -> Task:
        # Wanted before anybody sees it, so that nobody else's refusal takes it away.
        self._wanted[planned] += 1
        establish = self._host.registration.establish
        try:
            task = await self._registrations.run(("establish", key), lambda: establish(planned))
        except BaseException:
            self._want_no_more(planned)
            raise
        if task is not planned:  # another call was faster
            self._want_no_more(planned)
            self._want(task)
        return task

    async def _linked(self, call: Call) -> Call:
        """The call, once its task is linked for the engine that it needs."""
        task = call.task
        metered = _is_metered(call)
        if metered not in task.linkages:
            link = self._host.registration.link
            await self._registrations.run((task.id, metered), lambda: link(task, metered=metered))
        return call

    # Tasks on trial

    def _want(self, task: Task) -> None:
        if task in self._wanted:
            self._wanted[task] += 1

    def _want_no_more(self, task: Task) -> bool:
        """Whether the task was made for calls none of which is left or was accepted."""
        if task not in self._wanted:
            return False
        self._wanted[task] -= 1
        if self._wanted[task]:
            return False
        del self._wanted[task]
        return True

    async def _take_away(self, task: Task) -> None:
        try:
            # At once: whoever comes from now on makes a task anew.
            self._host.manager.retire(task, force=False, forget_records=False)
        except TaskBusy:  # another thread has had a call accepted meanwhile
            return
        try:
            await self._others.retire(Retirement(task.id, force=False, forget_records=False))
        except SpearError:  # so has another worker
            self._host.manager.reinstate(task)
            return
        await in_thread(self._removals, lambda: self._host.registration.remove_retired(task))


def _key_of(request: pb.InvokeFunctionRequest) -> tuple[str, bytes]:
    return request.task_name, request.artifact_spec.SerializeToString(deterministic=True)


def _is_metered(call: Call) -> bool:
    return (call.task.limits.max_fuel or call.limits.max_fuel) != 0


def _call_of(
    request: pb.InvokeFunctionRequest, task: Task, time_remaining: Callable[[], float | None]
) -> Call:
    if request.execution_mode != pb.EXECUTION_MODE_ASYNC:
        return call_from(request, task, time_remaining())
    # Who hands in a call to be run some time may hang up long before.
    return structs.replace(call_from(request, task, None), mode=ExecutionMode.ASYNC)
