"""One pod: looks at what is wanted and what is there, and has done what the plan says.

    wanted (API, manifest) --+
    observed (Docker) -------+--> plan --> operations, one per container at a time
    probes, back-offs -------+      |
                                    +--> status

A look takes no time: starting and ending are operations beside it, removing and the contents of
volumes errands, so that a pod of which something is slow can be deleted at once. The end of an
operation, an event, a probe or a timer leads to the next look. Nothing but what Docker shows
decides what is there.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from hostkit.errors import HostkitError
from hostkit.reconcile import Backoff, Reconciler
from nodeagent.errors import EngineError, PodError
from nodeagent.pods.containerstatus import FINAL, text_of
from nodeagent.pods.endings import Endings
from nodeagent.pods.environment import references
from nodeagent.pods.errands import Errands, tear_down
from nodeagent.pods.launch import Launcher, event_reason
from nodeagent.pods.memory import Memory
from nodeagent.pods.messages import last_words
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import SANDBOX, PodSeen, Seen
from nodeagent.pods.operations import Operations, Work
from nodeagent.pods.parts import Parts
from nodeagent.pods.plan import Mode, Plan, Start, plan
from nodeagent.pods.status import PodNotes, build

log = logging.getLogger(__name__)

REFRESH = 60.0
"""Seconds between looks at the contents of volumes that follow objects."""
FORCED = 2.0
"""Seconds left to the containers of a pod that is deleted by force while it is being deleted."""
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
        self._endings = Endings(parts, lambda: self._address(parts.observer.pod(pod.uid).sandbox))
        self._most_grace: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._refreshed = parts.clock()
        self._stale = False
        self._gone = False
        self._holds = False
        self._closing = False
        self.loop = Reconciler(
            f"pod {pod.key}", self.look, tolerate=(HostkitError, OSError), backoff=_LOOK_BACKOFF,
            clock=parts.clock,
        )  # fmt: skip
        self._operations = Operations(self._operation, self.loop.trigger)
        self._errands = Errands(pod, parts, self.loop.trigger)
        self.loop.trigger()

    @property
    def mode(self) -> Mode:
        """What is wanted of the pod as a whole."""
        if self._removed or self.pod.metadata.deletion_timestamp:
            return "remove"
        if self._given_up is not None or text_of(self.pod.status.get("phase")) in FINAL:
            return "stop"
        return "run"

    @property
    def finished(self) -> bool:
        """Whether it has ended for good, so that it takes no room on the node."""
        return self.mode != "run" or text_of(self.status.get("phase")) in FINAL

    @property
    def waits(self) -> dict[str, float]:
        """Seconds until each container that waits is started again."""
        return self._memory.left()

    def update(self, pod: Pod) -> None:
        """The pod as it is wanted now."""
        if _shown(pod) != _shown(self.pod):
            self._stale = True
        self.pod = pod
        # What is made of a spec that is no more would be ended at once.
        self._operations.call_off(self._memory.update(pod))
        if self.mode == "remove":
            self._hasten()
        self.loop.trigger()

    def remove(self) -> None:
        """The pod is wanted no more: end and remove all of it."""
        self._removed = True
        self._hasten()
        self.loop.trigger()

    def give_up(self, reason: str, message: str, *, most_grace: int | None = None) -> None:
        """End the pod for good, with phase Failed, within *most_grace* seconds if that is set."""
        if self._given_up is None and not self.finished:
            self._given_up = (reason, message)
            self._most_grace = most_grace
            self._hasten()
            self._parts.recorder.pod(self.pod, "Warning", reason, message)
            self.loop.trigger()

    def observed(self) -> None:
        """Docker shows something new of it."""
        self._endings.heard()
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
        self._closing = True
        await asyncio.gather(self._operations.close(), self._errands.close())
        await self._launcher.close()
        # A worker that stopped by a fault is begun again.
        self._closing = False

    async def look(self) -> None:
        """One look: notice, plan, begin, report."""
        if self._gone:
            return
        parts = self._parts
        self._hold()
        if self.mode != "remove" and self._unclear():
            return
        seen = await self._notice()
        self._endings.keep({one.id for one in seen.everything})
        if reason := self._memory.deadline_passed():
            self.give_up("DeadlineExceeded", reason)
        known = self._memory.known(self._operations.busy, parts.probes)
        todo = plan(self.pod, seen, known, parts.clock(), self.mode)
        self._begin(todo, seen)
        self._probe(seen)
        self._report(seen)
        self._refresh_volumes()
        self._errands.remove(todo.removes)
        busy = self._operations.busy or self._errands.busy
        if self.mode == "remove" and todo.gone and not busy:
            await self._farewell()
            return
        self._set_timer(todo)

    def _unclear(self) -> bool:
        """Whether Docker has not told yet how a container ended, or at which address it is."""
        found = self._parts.observer.pod(self.pod.uid).everything
        return any(not one.inspected for one in found)

    def _hold(self) -> None:
        """Have what it refers to followed for as long as something of it may start."""
        wanted = self.mode == "run"
        if wanted and not self._holds:
            self._parts.objects.hold(self.pod, references(self.pod))
        elif self._holds and not wanted:
            self._parts.objects.release(self.pod.uid)
        self._holds = wanted

    async def _notice(self) -> PodSeen:
        """Take note of what ended, with its last words; what there is after that."""
        while fresh := self._memory.notice(seen := self._parts.observer.pod(self.pod.uid)):
            self._memory.messages |= {ended.id: "" for ended in fresh}
            await asyncio.gather(*map(self._last_words, fresh))
        return seen

    async def _last_words(self, ended: Seen) -> None:
        container = self._memory.container(ended.name)
        if container is None:
            return
        self._memory.messages[ended.id] = await last_words(
            self._parts.engine, self._parts.host, self.pod, container, ended
        )
        if self._memory.waits(ended.name) and self.mode == "run":
            text = f"Back-off restarting failed container {ended.name}"
            self._parts.recorder.pod(self.pod, "Warning", "BackOff", text, ended.name)

    def _begin(self, todo: Plan, seen: PodSeen) -> None:
        if self.mode != "run":
            self._operations.call_off(self._operations.starting)
            self._launcher.stop()
        elif seen.sandbox is None or not seen.sandbox.running:
            # They were to join it: the next one would wait for their images.
            self._operations.call_off(self._operations.starting - {SANDBOX})
        for kill in todo.kills:
            # Of two instances of a container the other one's turn comes after.
            if kill.seen.name not in self._operations.busy:
                container = self._memory.container(kill.seen.name)
                grace = self._grace(kill.grace)
                ending = partial(self._endings.end, self.pod, container, kill, grace)
                self._operations.begin(kill.seen.name, ending)
        for start in todo.starts:
            if start.name == SANDBOX:
                self._operations.begin(
                    SANDBOX, partial(self._start_sandbox, start, seen), starting=True
                )
            elif seen.sandbox is not None:
                work = partial(self._start, start, seen.sandbox)
                self._operations.begin(start.name, work, starting=True)

    async def _operation(self, name: str, work: Work) -> None:
        """Do *work*, and read what came of it."""
        started = None
        try:
            started = await work()
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
                if not self._closing:
                    look = self._parts.observer
                    await (look.started(started) if started else look.refresh(self.pod.uid))
            except EngineError as error:
                log.debug("pod %s: not looked at: %s", self.pod.key, error)

    def _complain(self, name: str, error: PodError) -> None:
        """A start failed: say so, and wait before the next try."""
        self._memory.failed(name, error)
        where = "" if name == SANDBOX else name
        text = error.message if name == SANDBOX else f"{name}: {error.message}"
        if reason := event_reason(error):
            self._parts.recorder.pod(self.pod, "Warning", reason, text, where)
        if error.final:
            self.give_up(error.reason, text)

    async def _start_sandbox(self, start: Start, seen: PodSeen) -> str | None:
        if start.attempt or seen.containers:
            self._parts.recorder.pod(
                self.pod, "Normal", "SandboxChanged",
                "the pod's sandbox is gone: it and the containers in it are started again",
            )  # fmt: skip
        first = self.pod.spec.init_containers[:1] or self.pod.spec.containers
        return await self._launcher.sandbox(self.pod, start, first)

    async def _start(self, start: Start, sandbox: Seen) -> str | None:
        container = self._memory.container(start.name)
        if container is None:
            return None
        address = self._address(sandbox)
        return await self._launcher.container(self.pod, container, start, sandbox, address)

    def _address(self, sandbox: Seen | None) -> str:
        if self.pod.spec.host_network:
            return self._parts.host.address
        return "" if sandbox is None else sandbox.address

    def _grace(self, own: int | None = None) -> float:
        """Seconds a container has to end: the deletion's, else its *own*, else the pod's."""
        meta = self.pod.metadata
        if meta.deletion_timestamp and meta.deletion_grace_period_seconds is not None:
            grace = float(max(meta.deletion_grace_period_seconds, 0))
            # Its object went before it had ended: somebody has stopped waiting (kubectl --force).
            return min(grace, FORCED) if self._removed else grace
        if self._most_grace is not None:
            return float(self._most_grace)
        if own is not None:
            return float(own)
        return float(max(self.pod.spec.termination_grace_period_seconds, 0))

    def _hasten(self) -> None:
        self._endings.hasten(self._grace())

    def _probe(self, seen: PodSeen) -> None:
        running = {
            c.name: newest
            for c in (*self.pod.spec.containers, *self.pod.spec.init_containers)
            if (newest := seen.newest(c.name)) is not None
            and newest.running
            and not (c.lifecycle.post_start and c.name in self._operations.starting)
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
            self._parts.statuses.put(target, self.status)

    @property
    def _refreshes(self) -> bool:
        """Whether its volumes are of interest."""
        return self.mode == "run" and not self.finished

    def _refresh_volumes(self) -> None:
        if not self._refreshes:
            self._errands.leave_volumes()
            return
        now = self._parts.clock()
        if (self._stale or now - self._refreshed >= REFRESH) and not self._errands.refreshing:
            self._stale, self._refreshed = False, now
            self._errands.refresh(self.pod)

    async def _farewell(self) -> None:
        """Nothing runs and nothing is left in Docker: clean up, tell the API server, end."""
        uid = self.pod.uid
        self._parts.probes.forget(uid)
        await self._launcher.close()
        await asyncio.gather(tear_down(self._parts, uid), self._parts.cgroups.remove(uid))
        target = None if self.orphan or self.pod.is_static else self._target()
        # One that the API server only does not show any more is nobody's to delete.
        is_due = target is not None and bool(target.metadata.deletion_timestamp)
        if target is not None and is_due and not await self._parts.statuses.confirm_gone(target):
            raise PodError("FailedDelete", "the API server does not confirm the deletion")
        self._parts.objects.release(uid)
        self._gone = True
        self._on_gone(self)

    def _set_timer(self, todo: Plan) -> None:
        """Look again when a wait ends, a deadline passes or volumes are due."""
        now = self._parts.clock()
        times = [now + REFRESH]
        if todo.wake is not None:
            times.append(todo.wake)
        if self._refreshes:
            times.append(self._refreshed + REFRESH)
            if self._memory.deadline is not None:
                times.append(self._memory.deadline)
        if self._timer is not None:
            self._timer.cancel()
        delay = max(min(times) - now, 0.01)
        self._timer = asyncio.get_running_loop().call_later(delay, self.loop.trigger)


def _shown(pod: Pod) -> tuple[dict[str, str], dict[str, str]]:
    """What may change of a pod while its volumes show it."""
    return pod.metadata.labels, pod.metadata.annotations
