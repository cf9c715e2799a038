"""The containers of one pod that are on their way out, by id."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

from hostkit.reconcile import Backoff
from nodeagent.errors import EngineError, PodError
from nodeagent.pods.container import Container
from nodeagent.pods.ending import Ending
from nodeagent.pods.hooks import run_hook
from nodeagent.pods.model import Pod
from nodeagent.pods.observed import Seen
from nodeagent.pods.parts import Parts
from nodeagent.pods.plan import Kill

_BACKOFF = Backoff(first=0.2, most=10.0)


class Endings:
    """Ends containers; one that failed goes on where it stopped when it is asked for again.

    *address* gives the pod's address as it is now.
    """

    def __init__(self, parts: Parts, address: Callable[[], str]) -> None:
        self._parts = parts
        self._address = address
        self._endings: dict[str, Ending] = {}

    def heard(self) -> None:
        """Something about the pod was observed."""
        for ending in self._endings.values():
            ending.heard()

    def hasten(self, grace: float) -> None:
        """Allow all of them *grace* seconds from now at most."""
        for ending in self._endings.values():
            ending.hasten(grace)

    def keep(self, ids: Collection[str]) -> None:
        """Forget all but these: the others are gone."""
        for one in [one for one in self._endings if one not in ids]:
            del self._endings[one]

    async def end(self, pod: Pod, container: Container | None, kill: Kill, grace: float) -> None:
        """End one instance of *container* within *grace* seconds.

        Raises EngineError, after a wait, when Docker refuses.
        """
        ending = self._endings.get(kill.seen.id)
        if ending is None:
            ending = self._make(pod, container, kill.seen, grace)
            self._endings[kill.seen.id] = ending
            message = f"Stopping container {kill.seen.name}"
            if kill.reason != "Killing":
                message = f"{message}: {kill.message}"
            self._parts.recorder.pod(pod, "Normal", "Killing", message, kill.seen.name)
        try:
            await ending.run()
        except EngineError:
            ending.failures += 1
            await asyncio.sleep(_BACKOFF.delay(ending.failures))
            raise
        self._endings.pop(kill.seen.id, None)

    def _make(self, pod: Pod, container: Container | None, seen: Seen, grace: float) -> Ending:
        parts = self._parts

        def runs() -> bool:
            found = parts.observer.pod(pod.uid).everything
            return any(one.id == seen.id and one.running for one in found)

        return Ending(
            seen,
            grace,
            engine=parts.engine,
            hook=None if container is None else self._hook(pod, container, seen),
            runs=runs,
            look=lambda: parts.observer.refresh(pod.uid),
            clock=parts.clock,
        )

    def _hook(
        self, pod: Pod, container: Container, seen: Seen
    ) -> Callable[[float], Awaitable[None]] | None:
        handler = container.lifecycle.pre_stop
        if handler is None:
            return None

        async def hook(limit: float) -> None:
            try:
                await run_hook(
                    handler, pod, container, seen, self._address(), self._parts.engine,
                    timeout=limit,
                )  # fmt: skip
            except PodError as error:
                self._parts.recorder.pod(
                    pod, "Warning", "FailedPreStopHook", error.message, seen.name
                )

        return hook
