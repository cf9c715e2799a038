"""What a worker remembers of its pod between looks, beside what Docker shows."""

from collections.abc import Mapping
from typing import Any

from nodeagent.errors import PodError
from nodeagent.pods.age import Age, stamp
from nodeagent.pods.backoff import Backoffs, Delays
from nodeagent.pods.container import Container
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import SANDBOX, PodSeen, Seen
from nodeagent.pods.parts import Parts, Probing
from nodeagent.pods.plan import Known, Verdict
from nodeagent.pods.resources import qos_class
from nodeagent.pods.status import ContainerNote

CONFIG_DELAYS = Delays(first=1.0, most=30.0)
"""The waits after a start that failed for a reason that others mend: an object, a volume."""
PULLS = frozenset({"ErrImagePull"})
START_FAILED = 128
"""The exit code of a container that could not be started (dockershim's)."""


def _containers(pod: Pod) -> tuple[Container, ...]:
    return (*pod.spec.containers, *pod.spec.init_containers)


class Memory:
    """What happened to one pod's containers."""

    def __init__(self, pod: Pod, parts: Parts) -> None:
        self._parts = parts
        self._pod = pod
        self._crashes = Backoffs(parts.delays)
        self._pulls = Backoffs(parts.delays)
        self._configs = Backoffs(CONFIG_DELAYS)
        self._ran: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        self._failures: dict[str, PodError] = {}
        self._seen_running: set[str] = set()
        self.messages: dict[str, str] = {}
        self.carried: dict[str, tuple[bool, bool]] = {}
        self._age = Age(
            str(pod.status.get("startTime") or ""),
            clock=parts.clock, wall=parts.wall, process_age=parts.process_age,
        )  # fmt: skip
        self.start_time = self._age.start_time
        self.qos = str(pod.status.get("qosClass") or qos_class(pod))
        self._take_status(pod)

    def _take_status(self, pod: Pod) -> None:
        """Learn from the status at the API server what ran before this agent did."""
        for group in ("initContainerStatuses", "containerStatuses"):
            entries = pod.status.get(group)
            for entry in entries if isinstance(entries, list) else ():
                self._take_entry(entry)

    def _take_entry(self, entry: Any) -> None:
        if not isinstance(entry, dict) or not entry.get("containerID"):
            return
        name, count = str(entry.get("name")), entry.get("restartCount", 0)
        self._ran[name] = count if isinstance(count, int) else 0
        self.carried[name] = (bool(entry.get("ready")), bool(entry.get("started")))
        state = entry.get("state")
        ended = state.get("terminated") if isinstance(state, dict) else None
        if isinstance(ended, dict) and isinstance(ended.get("exitCode"), int):
            self._ended[name] = ended["exitCode"]

    def update(self, pod: Pod) -> frozenset[str]:
        """The pod as it is wanted now; the containers that are others than before.

        What is known of failures is of the ones before.
        """
        before = {one.name: one.hash for one in _containers(self._pod)}
        self._pod = pod
        others = frozenset(
            one.name for one in _containers(pod) if before.get(one.name, one.hash) != one.hash
        )
        for name in others:
            self._failures.pop(name, None)
            for backoffs in (self._crashes, self._pulls, self._configs):
                backoffs.succeeded(name)
        return others

    def container(self, name: str) -> Container | None:
        """The container *name* as wanted."""
        return next((one for one in _containers(self._pod) if one.name == name), None)

    def notice(self, seen: PodSeen) -> list[Seen]:
        """Record what runs and what ended; the containers whose end was not known, oldest first."""
        now = self._parts.clock()
        self._age.notice(seen.sandbox)
        fresh: list[Seen] = []
        for one in seen.everything:
            self._ran[one.name] = max(self._ran.get(one.name, -1), one.attempt)
            if one.running:
                self._crashes.began(one.name, one.id, now)
                self._seen_running.add(one.id)
        for name, group in seen.containers.items():
            newest = group[0]
            ended = newest.state == "exited" or (newest.state == "created" and newest.error)
            if not ended:
                if newest.running:
                    self._ended.pop(name, None)
                continue
            # Docker leaves 0 behind for some starts that failed.
            failed = newest.state == "created"
            self._ended[name] = newest.exit_code or (START_FAILED if failed else 0)
            if newest.id not in self.messages:
                self._crashes.ended(name, newest.id, now)
                fresh.append(newest)
        present = {one.id for one in seen.everything}
        self._seen_running &= present
        self.messages = {k: v for k, v in self.messages.items() if k in present}
        return fresh

    def waits(self, name: str) -> bool:
        """Whether a container that ended has to wait before it is started again."""
        return self._left(self._crashes, name) > 0

    def left(self) -> dict[str, float]:
        """Seconds until each container that waits is started again."""
        now = self._parts.clock()
        return {name: until - now for name, until in self._all_waits().items() if until > now}

    def _all_waits(self) -> dict[str, float]:
        waits: dict[str, float] = {}
        for backoffs in (self._crashes, self._pulls, self._configs):
            for name, until in backoffs.waits.items():
                waits[name] = max(until, waits.get(name, 0.0))
        return waits

    def known(self, busy: frozenset[str], probes: Probing) -> Known:
        """All of it, for the planner."""
        condemned = {}
        for one in self._seen_running:
            verdict = probes.verdict(one)
            if verdict.failed:
                text = f"{verdict.failed} probe failed: {verdict.message}"
                condemned[one] = Verdict("Unhealthy", text, verdict.grace)
        return Known(
            ran=dict(self._ran), ended=dict(self._ended), waits=self._all_waits(),
            condemned=condemned, busy=busy, keep_dead=self._parts.keep_dead,
        )  # fmt: skip

    def done(self, name: str) -> None:
        """An operation went well."""
        self._failures.pop(name, None)
        self._pulls.succeeded(name)
        self._configs.succeeded(name)

    def failed(self, name: str, error: PodError) -> bool:
        """An operation failed; whether it failed so before."""
        before = self._failures.get(name)
        self._failures[name] = error
        now = self._parts.clock()
        (self._pulls if error.reason in PULLS else self._configs).failed(name, now)
        return before is not None and str(before) == str(error)

    def hurry(self) -> None:
        """Something that a start waits for may have come."""
        for name in self._failures:
            self._configs.hurry(name, self._parts.clock())

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which activeDeadlineSeconds are over."""
        seconds = self._pod.spec.active_deadline_seconds
        return None if seconds is None else self._age.began + seconds

    def deadline_passed(self) -> str:
        """A sentence when the pod was active for longer than it may be."""
        deadline = self.deadline
        if deadline is None or self._parts.clock() < deadline or not self._age.sure:
            return ""
        seconds = self._pod.spec.active_deadline_seconds
        return f"the pod was active for longer than its deadline of {seconds} s"

    def now_text(self) -> str:
        """Now, in the API's form."""
        return stamp(self._parts.wall())

    def notes(
        self, seen: PodSeen, probes: Probing, digests: Mapping[str, str]
    ) -> Mapping[str, ContainerNote]:
        """What to report of each container beside what Docker shows."""
        found = {}
        for container in (*self._pod.spec.init_containers, *self._pod.spec.containers):
            name = container.name
            newest, older = seen.newest(name), seen.containers.get(name, ())[1:2]
            ready = started = False
            if newest is not None and newest.running:
                verdict = probes.verdict(newest.id)
                ready, started = verdict.ready, verdict.started
            found[name] = ContainerNote(
                waiting=self._waiting(name, newest),
                ready=ready,
                started=started,
                message=self.messages.get(newest.id, "") if newest else "",
                last_message=self.messages.get(older[0].id, "") if older else "",
                digest=digests.get(name, ""),
            )
        return found

    def _waiting(self, name: str, newest: Seen | None) -> tuple[str, str] | None:
        """Why a container that should run does not; None for no special reason."""
        if newest is not None and newest.running:
            return None
        error = self._failures.get(name) or self._failures.get(SANDBOX)
        if error is not None:
            # The first failure is told as it is, for as long as the first wait lasts.
            if error.reason in PULLS and self._pulls.failures(name) > 1:
                return "ImagePullBackOff", f"waits before it is pulled again: {error.message}"
            return error.reason, error.message
        if newest is not None and self.waits(name):
            seconds = self._crashes.wait(name)
            text = f"back-off {seconds:g}s restarting failed container={name} pod={self._pod.key}"
            return "CrashLoopBackOff", text
        return None

    def _left(self, backoffs: Backoffs, name: str) -> float:
        return backoffs.waits.get(name, 0.0) - self._parts.clock()
