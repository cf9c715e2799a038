"""One pod: looks at what is wanted and what is there, and has done what the plan says.

    wanted (API, manifest) --+
    observed (Docker) -------+--> plan --> operations, one per container at a time
    probes, back-offs -------+      |
                                    +--> status

A look takes no time: starting and ending are operations beside it, so that a pod whose image is
slow to come can be deleted at once. The end of an operation, an event, a probe or a timer leads
to the next look. Nothing but what Docker shows decides what is there.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from hostkit.errors import HostkitError
from hostkit.reconcile import Backoff, Reconciler
from nodeagent.errors import EngineError, PodError
from nodeagent.pods.ending import Ending
from nodeagent.pods.environment import references
from nodeagent.pods.hooks import run_hook
from nodeagent.pods.launch import Launcher
from nodeagent.pods.memory import Memory
from nodeagent.pods.messages import termination_message
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import SANDBOX, PodSeen, Seen
from nodeagent.pods.parts import Parts
from nodeagent.pods.plan import Kill, Mode, Plan, Start, plan
from nodeagent.pods.status import PodNotes, build

log = logging.getLogger(__name__)

FINAL = frozenset({"Failed", "Succeeded"})
REFRESH = 60.0
"""Seconds between looks at the contents of volumes that follow objects."""
TOLD = frozenset({"ErrImagePull", "ErrImageNeverPull", "InvalidImageName"})
"""Reasons of failures of which events were recorded where they happened."""
FAILED = frozenset(
    {"RunContainerError", "CreateContainerError", "CreateContainerConfigError",
     "ContainerRuntimeError"}
)  # fmt: skip
"""Waiting reasons whose event has the reason Failed, which people filter on."""
_LOOK_BACKOFF = Backoff(first=0.2, most=10.0)


class PodWorker:
    """Keeps one pod as it should be, until it is gone.

    *target* gives the object that shows the pod at the API server, None while there is none.
    *on_gone* is called once, when nothing of the pod is left.
    """

    def __init__(
        self,
        pod: Pod,
        parts: Parts,
        *,
        target: Callable[[], Pod | None],
        on_gone: Callable[["PodWorker"], None],
        on_status: Callable[[Pod, dict[str, Any]], None] = lambda _pod, _status: None,
        orphan: bool = False,
    ) -> None:
        self.pod = pod
        self.orphan = orphan
        self.status: dict[str, Any] = dict(pod.status)
        self._parts = parts
        self._target = target
        self._on_gone = on_gone
        self._on_status = on_status
        self._removed = orphan
        self._given_up: tuple[str, str] | None = None
        self._memory = Memory(pod, parts)
        self._launcher = Launcher(parts)
        self._operations: dict[str, asyncio.Task[None]] = {}
        self._starting: set[str] = set()
        self._endings: dict[str, Ending] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._refreshed = parts.clock()
        self._stale = False
        self._gone = False
        self._holds = False
        self.loop = Reconciler(
            f"pod {pod.key}", self.look, tolerate=(HostkitError, OSError), backoff=_LOOK_BACKOFF,
            clock=parts.clock,
        )  # fmt: skip
        self.loop.trigger()

    @property
    def mode(self) -> Mode:
        """What is wanted of the pod as a whole."""
        if self._removed or self.pod.metadata.deletion_timestamp:
            return "remove"
        if self._given_up is not None or self.pod.status.get("phase") in FINAL:
            return "stop"
        return "run"

    @property
    def finished(self) -> bool:
        """Whether it has ended for good, so that it takes no room on the node."""
        return self.mode != "run" or self.status.get("phase") in FINAL

    def update(self, pod: Pod) -> None:
        """The pod as it is wanted now."""
        self.pod = pod
        self._memory.update(pod)
        if self.mode == "remove":
            self._hasten()
        self.loop.trigger()

    def remove(self) -> None:
        """The pod is wanted no more: end and remove all of it."""
        self._removed = True
        self._hasten()
        self.loop.trigger()

    def give_up(self, reason: str, message: str) -> None:
        """End the pod for good, with phase Failed."""
        if self._given_up is None and not self.finished:
            self._given_up = (reason, message)
            self._parts.recorder.pod(self.pod, "Warning", reason, message)
            self.loop.trigger()

    def observed(self) -> None:
        """Docker shows something new of it."""
        for ending in self._endings.values():
            ending.heard()
        self.loop.trigger()

    def objects_changed(self) -> None:
        """An object that it refers to is another now."""
        self._stale = True
        self._memory.hurry()
        self.loop.trigger()

    async def run(self) -> None:
        """Look whenever something happened, until the pod is gone."""
        try:
            await self.loop.run()
        finally:
            await self.close()

    async def close(self) -> None:
        """Leave the pod alone: what runs goes on running."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._operations.values():
            task.cancel()
        await asyncio.gather(*self._operations.values(), return_exceptions=True)
        await self._launcher.close()

    async def look(self) -> None:
        """One look: notice, plan, begin, report."""
        if self._gone:
            return
        parts = self._parts
        if self.mode == "run" and not self._holds:
            self._holds = True
            parts.objects.hold(self.pod, references(self.pod))
        seen = parts.observer.pod(self.pod.uid)
        await self._notice(seen)
        if reason := self._memory.deadline_passed():
            self.give_up("DeadlineExceeded", reason)
        known = self._memory.known(frozenset(self._operations), parts.probes)
        todo = plan(self.pod, seen, known, parts.clock(), self.mode)
        self._begin(todo, seen)
        self._probe(seen)
        self._report(seen)
        if self.mode == "run":
            await self._refresh_volumes()
        if todo.removes:
            await self._remove(todo.removes)
        if self.mode == "remove" and todo.gone and not self._operations:
            await self._farewell()
            return
        self._set_timer(todo)

    async def _notice(self, seen: PodSeen) -> None:
        """Take note of what ended, with its last words."""
        for ended in self._memory.notice(seen):
            container = self._memory.container(ended.name)
            self._memory.messages[ended.id] = text = ""
            if container is None:
                continue
            try:
                async with asyncio.timeout(5.0):
                    text = await termination_message(
                        self._parts.engine, self._parts.host, self.pod, container, ended
                    )
            except (TimeoutError, EngineError, OSError) as error:
                log.debug("pod %s: no termination message: %s", self.pod.key, error)
            self._memory.messages[ended.id] = text
            if self._memory.waits(ended.name) and self.mode == "run":
                self._parts.recorder.pod(
                    self.pod,
                    "Warning",
                    "BackOff",
                    f"Back-off restarting failed container {ended.name}",
                    ended.name,
                )

    def _begin(self, todo: Plan, seen: PodSeen) -> None:
        if self.mode != "run":
            for name in tuple(self._starting):
                # Once only: what follows in the operation reads what came of it.
                self._starting.discard(name)
                self._operations[name].cancel()
        for kill in todo.kills:
            self._operate(kill.seen.name, self._end(kill))
        for start in todo.starts:
            if start.name == SANDBOX:
                self._operate(SANDBOX, self._start_sandbox(start, seen), starting=True)
            elif seen.sandbox is not None:
                self._operate(start.name, self._start(start, seen.sandbox), starting=True)

    def _operate(self, name: str, work: Awaitable[None], *, starting: bool = False) -> None:
        task = asyncio.ensure_future(self._operation(name, work))
        self._operations[name] = task
        if starting:
            self._starting.add(name)

    async def _operation(self, name: str, work: Awaitable[None]) -> None:
        """Do *work*, read what came of it, and have the pod looked at."""
        try:
            await work
            self._memory.done(name)
        except PodError as error:
            self._complain(name, error)
        except EngineError as error:
            self._complain(name, PodError("ContainerRuntimeError", str(error)))
        except OSError as error:
            self._complain(name, PodError("NodeError", f"{error.strerror or error}"))
        # A fault of ours in one pod harms no other.
        except Exception as error:
            log.error("pod %s: a fault in the program", self.pod.key, exc_info=error)
            text = f"a fault in nodeagent: {type(error).__name__}: {error}"
            self._complain(name, PodError("InternalError", text))
        finally:
            try:
                await self._parts.observer.refresh(self.pod.uid)
            except EngineError as error:
                log.debug("pod %s: not looked at: %s", self.pod.key, error)
            finally:
                self._operations.pop(name, None)
                self._starting.discard(name)
                self.loop.trigger()

    def _complain(self, name: str, error: PodError) -> None:
        """A start failed: say so, and wait before the next try."""
        self._memory.failed(name, error)
        where = "" if name == SANDBOX else name
        text = error.message if name == SANDBOX else f"{name}: {error.message}"
        if error.reason not in TOLD:
            reason = "Failed" if error.reason in FAILED else error.reason
            self._parts.recorder.pod(self.pod, "Warning", reason, text, where)
        if error.final:
            self.give_up(error.reason, text)

    async def _start_sandbox(self, start: Start, seen: PodSeen) -> None:
        if seen.sandboxes:
            self._parts.recorder.pod(
                self.pod, "Normal", "SandboxChanged",
                "the pod's sandbox is gone: it and the containers in it are started again",
            )  # fmt: skip
        first = self.pod.spec.init_containers[:1] or self.pod.spec.containers
        await self._launcher.sandbox(self.pod, start, first)

    async def _start(self, start: Start, sandbox: Seen) -> None:
        container = self._memory.container(start.name)
        if container is not None:
            address = self._address(sandbox)
            await self._launcher.container(self.pod, container, start, sandbox, address)

    def _address(self, sandbox: Seen | None) -> str:
        if self.pod.spec.host_network:
            return self._parts.host.address
        return "" if sandbox is None else sandbox.address

    async def _end(self, kill: Kill) -> None:
        """End one instance; a second call goes on where a failed one stopped."""
        ending = self._endings.get(kill.seen.id)
        if ending is None:
            ending = self._make_ending(kill)
            self._endings[kill.seen.id] = ending
            message = f"Stopping container {kill.seen.name}"
            if kill.reason != "Killing":
                message = f"{message}: {kill.message}"
            self._parts.recorder.pod(self.pod, "Normal", "Killing", message, kill.seen.name)
        try:
            await ending.run()
        except EngineError:
            ending.failures += 1
            await asyncio.sleep(_LOOK_BACKOFF.delay(ending.failures))
            raise
        self._endings.pop(kill.seen.id, None)

    def _make_ending(self, kill: Kill) -> Ending:
        seen, parts = kill.seen, self._parts
        hook = None
        container = self._memory.container(seen.name)
        if container is not None and container.lifecycle.pre_stop is not None:
            handler = container.lifecycle.pre_stop

            async def hook(limit: float) -> None:
                address = self._address(parts.observer.pod(self.pod.uid).sandbox)
                try:
                    await run_hook(
                        handler, self.pod, container, seen, address, parts.engine, timeout=limit
                    )
                except PodError as error:
                    parts.recorder.pod(
                        self.pod, "Warning", "FailedPreStopHook", error.message, seen.name
                    )

        def runs() -> bool:
            found = parts.observer.pod(self.pod.uid).everything
            return any(one.id == seen.id and one.running for one in found)

        return Ending(
            seen,
            self._grace(kill.grace),
            engine=parts.engine,
            hook=hook,
            runs=runs,
            look=lambda: parts.observer.refresh(self.pod.uid),
            clock=parts.clock,
        )

    def _grace(self, own: int | None = None) -> float:
        """Seconds a container has to end: the deletion's, else its *own*, else the pod's."""
        meta = self.pod.metadata
        if meta.deletion_timestamp and meta.deletion_grace_period_seconds is not None:
            return float(max(meta.deletion_grace_period_seconds, 0))
        if own is not None:
            return float(own)
        return float(max(self.pod.spec.termination_grace_period_seconds, 0))

    def _hasten(self) -> None:
        for ending in self._endings.values():
            ending.hasten(self._grace())

    def _probe(self, seen: PodSeen) -> None:
        running = {
            c.name: newest
            for c in (*self.pod.spec.containers, *self.pod.spec.init_containers)
            if (newest := seen.newest(c.name)) is not None and newest.running
        }
        self._parts.probes.sync(
            self.pod, running, self._address(seen.sandbox), self._memory.carried,
            terminating=self.mode != "run",
        )  # fmt: skip

    def _report(self, seen: PodSeen) -> None:
        """Have the status written, if the pod is one that an API server knows."""
        if self.orphan:
            return
        notes = PodNotes(
            containers=self._memory.notes(seen, self._parts.probes, self._launcher.digests),
            failed=self._given_up,
            address=self._address(seen.sandbox),
            host_address=self._parts.host.address,
            start_time=self._memory.start_time,
            terminating=self.mode == "remove",
            qos=self._memory.qos,
        )  # fmt: skip
        status = build(self.pod, seen, notes, self._memory.now_text(), self.status)
        if status != self.status:
            self.status = status
            self._on_status(self.pod, status)
        target = self._target()
        if target is not None:
            self._parts.statuses.put(target, status)

    async def _refresh_volumes(self) -> None:
        now = self._parts.clock()
        if not self._stale and now - self._refreshed < REFRESH:
            return
        self._stale, self._refreshed = False, now
        try:
            await self._parts.volumes.refresh(self.pod)
        except PodError as error:
            self._parts.recorder.pod(self.pod, "Warning", error.reason, error.message)

    async def _remove(self, ids: tuple[str, ...]) -> None:
        await asyncio.gather(*(self._parts.engine.remove(one) for one in ids))
        await self._parts.observer.refresh(self.pod.uid)
        self.loop.trigger()

    async def _farewell(self) -> None:
        """Nothing runs and nothing is left in Docker: clean up, tell the API server, end."""
        uid = self.pod.uid
        self._parts.probes.forget(uid)
        await self._launcher.close()
        await asyncio.gather(self._parts.volumes.teardown(uid), self._parts.cgroups.remove(uid))
        if not self.orphan and not self.pod.is_static:
            target = self._target()
            if target is not None and not await self._parts.statuses.confirm_gone(target):
                raise PodError("FailedDelete", "the API server does not confirm the deletion")
        self._parts.objects.release(uid)
        self._gone = True
        self._on_gone(self)

    def _set_timer(self, todo: Plan) -> None:
        """Look again when a wait ends, a deadline passes or volumes are due."""
        now = self._parts.clock()
        times = [self._refreshed + REFRESH]
        times += [t for t in (todo.wake, self._memory.deadline) if t is not None]
        if self._timer is not None:
            self._timer.cancel()
        delay = max(min(times) - now, 0.01)
        self._timer = asyncio.get_running_loop().call_later(delay, self.loop.trigger)
