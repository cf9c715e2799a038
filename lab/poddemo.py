"""The pods part of ``barenode lab demo``: a pod whose container is taken away gets another one.

The container of a pod behind the service is removed with ``docker rm -f`` behind nodeagent's
back. Times run from the moment at which Docker has confirmed that, as the API server tells it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lab.control import Api, Raw, is_ready
from lab.errors import LabError
from lab.model import LabSpec
from lab.output import Output, Sheet
from lab.servicedemo import PODS

POD = "/api/v1/namespaces/default/pods/{}"
NODE = "/api/v1/nodes/{}"
DEADLINE = 20.0
"""Seconds within which the pod must be ready again."""

Remove = Callable[[str, str], Awaitable[None]]
"""Removes a container, by its id, of the host called so."""


@dataclass(frozen=True, slots=True)
class Healed:
    """What became of *pod*: times in seconds are None for what did not happen in time.

    *log* counts the lines that ``kubectl logs`` showed of it before.
    """

    pod: str
    node: str
    agent: str
    log: int
    running: float | None = None
    ready: float | None = None

    @property
    def well(self) -> bool:
        """Whether all is as it was."""
        return self.ready is not None and self.log > 0


class ControlPlane(Protocol):
    """What is needed of lab.control.Api."""

    async def call(self, method: str, path: str, body: Raw | None = None) -> Raw:
        """One request."""
        ...

    async def text(self, path: str) -> str:
        """A GET whose answer is no object."""
        ...


def healed_sheet(healed: Healed) -> Sheet:
    """One line about the pod."""
    header = ("pod", "through", "kubectl logs", "after docker rm -f", "healed")
    after = f"runs in {_seconds(healed.running)}, Ready in {_seconds(healed.ready)}"
    who, lines = f"{healed.pod} on {healed.node}", f"{healed.log} lines"
    row = (who, f"nodeagent {healed.agent}", lines, after, "yes" if healed.well else "no")
    return Sheet(header, (row,))


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


class PodDemo:
    """Runs when pods are up and were visited. *clock* is in seconds."""

    def __init__(
        self,
        output: Output,
        remove: Remove,
        *,
        connect: Callable[[LabSpec], ControlPlane] = Api,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._output = output
        self._remove = remove
        self._connect = connect
        self._clock = clock
        self._sleep = sleep

    async def run(self, spec: LabSpec) -> bool:
        """Take a container away and look at the rest; True if it came back. Raises LabError."""
        api = self._connect(spec)
        pods = [pod for pod in (await api.call("GET", PODS))["items"] if is_ready(pod)]
        if not pods:
            raise LabError("no pod is ready: see barenode lab status")
        before = pods[0]
        name, node = before["metadata"]["name"], before["spec"]["nodeName"]
        info = (await api.call("GET", NODE.format(node)))["status"]["nodeInfo"]
        agent = str(info["kubeletVersion"])
        lines = len((await api.text(f"{POD.format(name)}/log")).splitlines())
        self._output.progress("api", f"kubectl logs {name} shows {lines} lines")
        container = _container(before)
        await self._remove(node, str(container.get("containerID", "")).removeprefix("docker://"))
        self._output.progress(node, f"docker rm -f took the container of {name} away")
        healed = await self._heal(api, Healed(name, node, agent, lines), before)
        self._output.sheet(healed_sheet(healed))
        return healed.well

    async def _heal(self, api: ControlPlane, healed: Healed, before: Mapping[str, Any]) -> Healed:
        began = self._clock()
        old = _container(before).get("containerID")
        running: float | None = None
        ready: float | None = None
        while ready is None and self._clock() - began < DEADLINE:
            pod = await api.call("GET", POD.format(healed.pod))
            now = self._clock() - began
            container = _container(pod)
            same = pod["metadata"]["uid"] == before["metadata"]["uid"]
            if same and container.get("containerID") != old and "running" in container["state"]:
                running = now if running is None else running
                ready = now if is_ready(pod) else None
            if ready is None:
                await self._sleep(0.01)
        return replace(healed, running=running, ready=ready)


def _container(pod: Mapping[str, Any]) -> Raw:
    found: list[Raw] = pod.get("status", {}).get("containerStatuses") or [{"state": {}}]
    return found[0]
