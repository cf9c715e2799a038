"""All pods of the node: a worker for each that is wanted, and for each that is only left over.

Invariants:

* a pod is not begun before Docker has been listed, and before its own source has;
* containers of a pod that nobody knows are removed once *all* sources have listed;
* of a static pod the old instance is gone before the new one is begun;
* a pod whose containers are there is adopted: it is neither checked nor admitted again.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from hostkit.reconcile import Reconciler
from nodeagent.pods.check import problems_of
from nodeagent.pods.containerstatus import text_of
from nodeagent.pods.model import Meta, Pod, PodSpec
from nodeagent.pods.observed import SANDBOX, PodSeen
from nodeagent.pods.parts import Parts
from nodeagent.pods.worker import PodWorker

log = logging.getLogger(__name__)

RESTART = 5.0
"""Seconds after which a pod's worker that stopped by a fault in the program is begun again."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pod that a source wants here; *spec* gives its spec undecoded. *checked* is one whose
    fields its source has checked already."""

    pod: Pod
    spec: Callable[[], Mapping[str, Any]]
    checked: bool = False


class Source(Protocol):
    """Where pods come from."""

    @property
    def listed(self) -> bool:
        """Whether all of its pods are known."""
        ...

    def wanted(self) -> Mapping[str, Wanted]:
        """Its pods by uid, mirror pods left out."""
        ...


class AllSeen(Protocol):
    """What the manager reads of the observer."""

    @property
    def listed(self) -> bool:
        """Whether Docker was listed."""
        ...

    @property
    def pods(self) -> Mapping[str, PodSeen]:
        """All that Docker has of ours, by uid."""
        ...


Admit = Callable[[Wanted, list[Pod]], tuple[str, str] | None]
"""From a pod and those that take room already to reason and message, when it has none."""
Mirror = Callable[[str], Pod | None]
"""From a static pod's uid to the object that shows it."""


class PodManager:
    """Has each pod of *sources* seen to by a worker of its own."""

    def __init__(
        self,
        parts: Parts,
        observer: AllSeen,
        sources: Iterable[Source],
        *,
        admit: Admit,
        mirror: Mirror,
        on_status: Callable[[Pod, dict[str, Any]], None] = lambda _pod, _status: None,
    ) -> None:
        self._parts = parts
        self._observer = observer
        self._sources = tuple(sources)
        self._admit = admit
        self._mirror = mirror
        self._on_status = on_status
        self.workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._given: dict[str, Pod] = {}
        self._retired: set[str] = set()
        self._told: set[str] = set()
        self.loop = Reconciler("pods", self.step, sources=("docker",), resync=30.0)

    def observed(self, uid: str) -> None:
        """Docker shows something new of a pod."""
        # Before its first list is whole, a pod is seen in part.
        if self._observer.listed:
            self.loop.listed("docker")
        if worker := self.workers.get(uid):
            worker.observed()
        else:
            self.loop.trigger()

    def changed(self, _uid: str = "") -> None:
        """A source has something new."""
        self.loop.trigger()

    def probed(self, uid: str) -> None:
        """A probe's verdict changed."""
        if worker := self.workers.get(uid):
            worker.loop.trigger()

    def objects_changed(self, uid: str) -> None:
        """An object that a pod refers to is another now."""
        if worker := self.workers.get(uid):
            worker.objects_changed()

    async def step(self) -> None:
        """Bring the workers in line with what is wanted and what is left over."""
        wanted: dict[str, Wanted] = {}
        for source in self._sources:
            if source.listed:
                wanted |= source.wanted()
        self._retired &= wanted.keys()
        self._told &= wanted.keys()
        for uid, item in wanted.items():
            # What is left of one whose end was confirmed is an orphan.
            if uid not in self._retired:
                self._see_to(uid, item)
        everything = all(source.listed for source in self._sources)
        for uid, worker in list(self.workers.items()):
            if uid not in wanted and (everything or self._source_listed(worker.pod)):
                worker.remove()
        if everything:
            known = (wanted.keys() - self._retired) | self.workers.keys()
            for uid in self._observer.pods.keys() - known:
                self._begin_orphan(uid)

    def _see_to(self, uid: str, item: Wanted) -> None:
        worker = self.workers.get(uid)
        try:
            if worker is None:
                self._take_up(item)
            elif worker.orphan:
                self._replace_orphan(worker)
            elif self._given.get(uid) is not item.pod:
                self._given[uid] = item.pod
                worker.update(_with_status(item.pod, worker))
                self._tell_of_debugging(item)
        # A fault of ours in one pod harms no other.
        except Exception as error:
            text = f"a fault in the program: {type(error).__name__}: {error}"
            log.error("pod %s: %s", item.pod.key, text, exc_info=error)

    def _tell_of_debugging(self, item: Wanted) -> None:
        """Debug containers come to a pod that runs, and are not for us to start."""
        uid = item.pod.uid
        if item.checked or uid in self._told or not item.spec().get("ephemeralContainers"):
            return
        self._told.add(uid)
        for problem in problems_of(item.pod, item.spec()):
            if "ephemeralContainers" in problem:
                self._parts.recorder.pod(item.pod, "Warning", "UnsupportedPodSpec", problem)

    def _source_listed(self, pod: Pod) -> bool:
        # Sources are in the order static, API; with one source that one counts.
        source = self._sources[0] if pod.is_static else self._sources[-1]
        return source.listed

    def _take_up(self, item: Wanted) -> None:
        pod = item.pod
        if pod.is_static and any(self._older(pod)):
            return
        mirror = self._mirror(pod.uid) if pod.is_static else None
        if mirror is not None:
            pod = msgspec.structs.replace(pod, status=mirror.status)
        refusal = None
        adopted = pod.uid in self._observer.pods
        if not adopted and not pod.metadata.deletion_timestamp:
            refusal = self._refusal(Wanted(pod, item.spec, item.checked))
        worker = PodWorker(
            pod,
            self._parts,
            target=lambda uid=pod.uid: self._target(uid),  # type: ignore[misc]
            on_gone=self._gone,
            on_status=self._on_status,
        )
        self._given[pod.uid] = item.pod
        if refusal is not None:
            worker.give_up(*refusal)
        self._run(worker)

    def _refusal(self, item: Wanted) -> tuple[str, str] | None:
        if text_of(item.pod.status.get("phase")) in {"Failed", "Succeeded"}:
            return None
        problems = () if item.checked else problems_of(item.pod, item.spec())
        if problems:
            return "UnsupportedPodSpec", "; ".join(problems)
        others = [worker.pod for worker in self.workers.values() if self._takes_room(worker)]
        return self._admit(item, others)

    def _takes_room(self, worker: PodWorker) -> bool:
        if worker.orphan:
            return False
        seen = self._observer.pods.get(worker.pod.uid)
        # The sandbox of a pod whose end is told may run a moment more. By then the scheduler
        # counts on its room, and a refusal is for good.
        return not worker.finished or (
            seen is not None and any(one.running and one.name != SANDBOX for one in seen.everything)
        )

    def _older(self, pod: Pod) -> Iterator[str]:
        """What is left of former instances of a static pod; it is on its way out."""
        for uid, worker in self.workers.items():
            of_files = worker.pod.is_static or worker.orphan
            if uid != pod.uid and worker.pod.key == pod.key and of_files:
                yield uid
        for uid, seen in self._observer.pods.items():
            if uid == pod.uid or uid in self.workers:
                continue
            if any(f"{one.namespace}/{one.pod}" == pod.key for one in seen.everything):
                self._begin_orphan(uid)
                yield uid

    def _target(self, uid: str) -> Pod | None:
        worker = self.workers.get(uid)
        if worker is None:
            return None
        return self._mirror(uid) if worker.pod.is_static else worker.pod

    def _begin_orphan(self, uid: str) -> None:
        """A worker for containers whose pod nobody knows: it ends and removes them."""
        seen = self._observer.pods.get(uid)
        if seen is None or not seen.everything:
            return
        one = seen.everything[0]
        meta = Meta(name=one.pod, namespace=one.namespace, uid=uid)
        pod = Pod(meta, PodSpec(termination_grace_period_seconds=one.grace))
        log.info("pod %s is wanted no more: its containers are removed", pod.key)
        self._run(PodWorker(pod, self._parts, target=lambda: None, on_gone=self._gone, orphan=True))

    def _replace_orphan(self, worker: PodWorker) -> None:
        """What was taken for an orphan is wanted after all: its worker makes room."""
        uid = worker.pod.uid
        self.workers.pop(uid, None)
        if task := self._tasks.pop(uid, None):
            task.cancel()
            task.add_done_callback(lambda _: self.loop.trigger())

    def _run(self, worker: PodWorker) -> None:
        uid = worker.pod.uid
        self.workers[uid] = worker
        self._tasks[uid] = asyncio.create_task(self._keep_running(worker))

    async def _keep_running(self, worker: PodWorker) -> None:
        while True:
            try:
                await worker.run()
            # A fault of ours in one pod harms no other.
            except Exception as error:
                text = f"a fault in the program: {type(error).__name__}: {error}"
                log.error("pod %s: %s", worker.pod.key, text, exc_info=error)
            await asyncio.sleep(RESTART)
            worker.loop.trigger()

    def _gone(self, worker: PodWorker) -> None:
        uid = worker.pod.uid
        if self.workers.get(uid) is worker:
            del self.workers[uid]
            self._given.pop(uid, None)
            if worker.pod.metadata.deletion_timestamp:
                # It is not begun again before its source has heard of the end.
                self._retired.add(uid)
        if task := self._tasks.pop(uid, None):
            task.cancel()
        self.loop.trigger()

    @property
    def all_listed(self) -> bool:
        """Whether it is known what is wanted and what is there."""
        return self._observer.listed and all(source.listed for source in self._sources)

    async def close(self) -> None:
        """Leave all pods alone: what runs goes on running."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _with_status(pod: Pod, worker: PodWorker) -> Pod:
    """A manifest has no status; the one that a worker began with stays."""
    return msgspec.structs.replace(pod, status=worker.pod.status) if pod.is_static else pod
