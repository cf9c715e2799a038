"""The probes of all running containers: a task for each probe of each instance.

    sync -----> instances (container id) --> startup task --ok--> readiness and liveness tasks
    verdict <------ ready, started, failed <-----------------------+

An instance keeps its verdicts for as long as it runs; another instance of the same container
begins anew. Nothing here ends a container: who asks for the verdict does.

Delays are counted by the monotonic clock from when an instance was seen running first. An
instance that ran before this agent did keeps what the API server last had of it, and its first
probes are spread over the period, so that a restart of the agent neither changes a verdict nor
checks everything at once.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from hostkit.metrics import Metrics
from nodeagent.api.port import Recorder
from nodeagent.docker.api import Engine
from nodeagent.pods.container import Container, Probe
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import Seen
from nodeagent.probes.checks import Outcome, check
from nodeagent.probes.counter import Counter, Kind

log = logging.getLogger(__name__)

EAGER = 0.25
"""Seconds to the second readiness check of a new instance; each wait doubles up to the period.

Kubernetes allows a container that is not ready to be checked more often, to be ready sooner
(``core/v1`` Probe, periodSeconds).
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of an instance; *grace* is the failed probe's own grace period in seconds."""

    ready: bool = False
    started: bool = False
    failed: Literal["", "liveness", "startup"] = ""
    message: str = ""
    grace: int | None = None


UNKNOWN = Verdict()


@dataclass(slots=True)
class _Instance:
    """One running instance with what is known of it."""

    pod: Pod
    container: Container
    id: str
    address: str
    adopted: bool
    since: float
    verdict: Verdict
    tasks: dict[Kind, asyncio.Task[None]] = field(default_factory=dict)

    def probe(self, kind: Kind) -> Probe | None:
        """Its probe of a kind."""
        container = self.container
        return {
            "liveness": container.liveness_probe,
            "readiness": container.readiness_probe,
            "startup": container.startup_probe,
        }[kind]

    def stop(self, *kinds: Kind) -> None:
        """End the tasks of *kinds*."""
        for kind in kinds:
            if (task := self.tasks.pop(kind, None)) is not None:
                task.cancel()


class Probes:
    """Checks what runs; *on_change* hears the UID of a pod of which a verdict changed.

    *spread* gives a number from 0 to 1.
    """

    def __init__(
        self,
        engine: Engine,
        recorder: Recorder,
        on_change: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        spread: Callable[[], float] = random.random,
        metrics: Metrics | None = None,
    ) -> None:
        self._engine = engine
        self._recorder = recorder
        self._on_change = on_change
        self._clock = clock
        self._sleep = sleep
        self._spread = spread
        self._pods: dict[str, dict[str, _Instance]] = {}
        self._known: dict[str, _Instance] = {}
        self._count = (
            metrics.under("prober").counter(
                "probe", "Checks of containers by kind of probe and result", "probe_type", "result"
            )
            if metrics
            else None
        )

    def sync(
        self,
        pod: Pod,
        running: Mapping[str, Seen],
        address: str,
        carried: Mapping[str, tuple[bool, bool]],
        *,
        terminating: bool = False,
    ) -> None:
        """Probe the instances *running*, by container name, and no others of this pod.

        *carried* has (ready, started) as the API server last had it; it counts for what runs at
        the first call for a pod. A pod that is *terminating* is checked for readiness only.
        """
        first = pod.uid not in self._pods
        instances = self._pods.setdefault(pod.uid, {})
        wanted = {seen.id for seen in running.values()}
        for gone in instances.keys() - wanted:
            self._drop(instances.pop(gone))
        for name, seen in running.items():
            instance = instances.get(seen.id)
            if instance is None:
                container = _container(pod, name)
                if container is None:
                    continue
                before = _carried(pod, seen, carried) if first else None
                instance = self._begin(pod, container, seen, address, before, adopted=first)
                instances[seen.id] = self._known[seen.id] = instance
                self._start(instance, terminating=terminating)
            else:
                instance.pod, instance.address = pod, address
                if terminating:
                    instance.stop("liveness", "startup")

    def verdict(self, container_id: str) -> Verdict:
        """What is known of an instance; nothing good of one that ``sync`` was not told of."""
        instance = self._known.get(container_id)
        return UNKNOWN if instance is None else instance.verdict

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        for instance in self._pods.pop(uid, {}).values():
            self._drop(instance)

    async def stop(self) -> None:
        """End all checks."""
        tasks = [task for one in self._known.values() for task in one.tasks.values()]
        for uid in tuple(self._pods):
            self.forget(uid)
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- inside ---

    def _drop(self, instance: _Instance) -> None:
        instance.stop("liveness", "readiness", "startup")
        self._known.pop(instance.id, None)

    def _begin(
        self,
        pod: Pod,
        container: Container,
        seen: Seen,
        address: str,
        before: tuple[bool, bool] | None,
        *,
        adopted: bool,
    ) -> _Instance:
        was_ready, was_started = before or (False, False)
        started = container.startup_probe is None or was_started or was_ready
        ready = started and (container.readiness_probe is None or was_ready)
        return _Instance(
            pod, container, seen.id, address, adopted, self._clock(), Verdict(ready, started)
        )

    def _start(self, instance: _Instance, *, terminating: bool) -> None:
        """Begin with what can be checked now."""
        if instance.verdict.started:
            self._launch(instance, "readiness", spread=instance.adopted)
            if not terminating:
                self._launch(instance, "liveness", spread=instance.adopted)
        elif not terminating:
            self._launch(instance, "startup", spread=instance.adopted)

    def _launch(self, instance: _Instance, kind: Kind, *, spread: bool = False) -> None:
        probe = instance.probe(kind)
        if probe is None:
            return
        delay = max(instance.since + probe.initial_delay_seconds - self._clock(), 0.0)
        if spread and kind == "readiness":
            # It ran for longer than this agent knows. Readiness alone is safe to check early: how
            # long it ran by the wall clock, which may have been set, must not end a container.
            delay = 0.0
        if spread and (kind != "readiness" or instance.verdict.ready):
            delay += self._spread() * _period(probe)
        task = asyncio.create_task(self._repeat(instance, kind, probe, delay))
        task.add_done_callback(_tell)
        instance.tasks[kind] = task

    async def _repeat(self, instance: _Instance, kind: Kind, probe: Probe, delay: float) -> None:
        """Check again and again, until a verdict is final."""
        period = _period(probe)
        ready = instance.verdict.ready if kind == "readiness" else None
        counter = Counter(probe, kind, ready)
        wait = period if instance.adopted else _first_wait(kind, probe, period)
        if delay:
            await self._sleep(delay)
        while True:
            began = self._clock()
            outcome = await check(
                probe, instance.container, instance.id, instance.address, self._engine
            )
            # What has just been started and does not answer yet is no news.
            self._report(instance, kind, outcome, quiet=wait < min(1.0, period))
            if outcome.result != "unknown" and counter.feed(outcome.result == "successful"):
                self._decide(instance, kind, probe, outcome)
                if kind in {"startup", instance.verdict.failed}:
                    return
            pause = period if instance.verdict.ready else wait
            wait = min(2 * wait, period)
            await self._sleep(max(pause - (self._clock() - began), 0.0))

    def _report(self, instance: _Instance, kind: Kind, outcome: Outcome, *, quiet: bool) -> None:
        if self._count is not None:
            self._count.labels(kind.capitalize(), outcome.result).inc()
        if outcome.result == "successful" and not outcome.warning:
            return
        reason, verb = "Unhealthy", "errored"
        if outcome.result == "failed":
            verb = "failed"
            if quiet:
                return
        elif outcome.warning:
            reason, verb = "ProbeWarning", "warning"
        self._recorder.pod(
            instance.pod, "Warning", reason,
            f"{kind.capitalize()} probe {verb}: {outcome.message}", instance.container.name,
        )  # fmt: skip

    def _decide(self, instance: _Instance, kind: Kind, probe: Probe, outcome: Outcome) -> None:
        """The verdict of one probe has changed."""
        success = outcome.result == "successful"
        if kind == "readiness":
            instance.verdict = replace(instance.verdict, ready=success)
        elif success:
            ready = instance.container.readiness_probe is None
            instance.verdict = replace(instance.verdict, started=True, ready=ready)
            self._launch(instance, "readiness")
            self._launch(instance, "liveness")
        else:
            instance.verdict = replace(
                instance.verdict, failed=kind, message=outcome.message,
                grace=probe.termination_grace_period_seconds,
            )  # fmt: skip
        self._on_change(instance.pod.uid)


def _container(pod: Pod, name: str) -> Container | None:
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        if container.name == name:
            return container
    return None


def _carried(
    pod: Pod, seen: Seen, carried: Mapping[str, tuple[bool, bool]]
) -> tuple[bool, bool] | None:
    """What was reported of this instance; None where the report is about an earlier one."""
    entries = pod.status.get("containerStatuses")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == seen.name:
            # core/v1 ContainerStatus: <type>://<container_id>
            reported = str(entry.get("containerID") or "").rpartition("//")[2]
            if reported and reported != seen.id:
                return None
    return carried.get(seen.name)


def _period(probe: Probe) -> float:
    # core/v1: the default is 10 s, and less than 1 s is not valid.
    return float(probe.period_seconds if probe.period_seconds >= 1 else 10)


def _first_wait(kind: Kind, probe: Probe, period: float) -> float:
    # Several successes in a row are to show that it stays well, for a while that the period sets.
    if kind != "readiness" or probe.success_threshold > 1:
        return period
    return min(EAGER if probe.exec is None else 1.0, period)


def _tell(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a probe has ended by a fault of nodeagent: %r", error, exc_info=error)
