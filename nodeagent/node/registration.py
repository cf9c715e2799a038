"""Making the Node object, or taking over the one that is there."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

from hostkit.kube.errors import Conflict, Forbidden, KubeError, NotFound
from hostkit.kube.transport import KubeClient
from nodeagent.node.api import call
from nodeagent.node.rival import SILENCE, Vigil, is_stranger, life_sign
from nodeagent.node.settings import NodeSettings
from nodeagent.node.status import View, adoption_patch, node_object, part

log = logging.getLogger(__name__)

NODES = "/api/v1/nodes"


class NotRegistered(KubeError):  # noqa: N818 - names the state, not the fault
    """The node cannot be registered yet; the message says what it waits for."""


class Registrar:
    """Registers the node of *settings*; *lease* reads its lease."""

    def __init__(
        self,
        client: KubeClient,
        settings: NodeSettings,
        lease: Callable[[], Awaitable[Mapping[str, Any] | None]],
        *,
        clock: Callable[[], float] = time.monotonic,
        silence: float = SILENCE,
    ) -> None:
        self._client = client
        self._settings = settings
        self._lease = lease
        self._vigil = Vigil(clock, silence)
        self.path = f"{NODES}/{quote(settings.name)}"

    async def read(self) -> dict[str, Any] | None:
        """The Node as etcd has it, None when there is none."""
        try:
            return await call(self._client, "GET", self.path)
        except NotFound:
            return None

    async def register(self, view: View, now: str) -> tuple[dict[str, Any], bool]:
        """The Node, and whether it was made now; raises NotRegistered, or as KubeClient does."""
        found = await self.read()
        if found is not None:
            return await self._adopt(found, view), False
        if not self._settings.register:
            raise NotRegistered(
                f"there is no Node {self._settings.name}, and --register-node=false leaves it to "
                "others to make it"
            )
        try:
            made = await call(self._client, "POST", NODES, node_object(self._settings, view, now))
        except Conflict as error:
            raise NotRegistered(
                f"Node {self._settings.name} was made by another in this moment"
            ) from error
        log.info("node %s is registered with address %s", self._settings.name, view.address)
        return made, True

    async def _adopt(self, node: dict[str, Any], view: View) -> dict[str, Any]:
        if is_stranger(node, view.facts):
            await self._wait_for_silence(node)
        patch = adoption_patch(node, self._settings, view.facts)
        if patch is not None and self._settings.register:
            node = await call(self._client, "PATCH", self.path, patch)
        log.info("node %s is adopted as it is at the API server", self._settings.name)
        return node

    async def _wait_for_silence(self, node: Mapping[str, Any]) -> None:
        """Raise NotRegistered while the machine that *node* was reported by may be alive."""
        try:
            lease = await self._lease()
        except Forbidden:
            lease = None
        name = self._settings.name
        info = part(part(node, "status"), "nodeInfo")
        if self._vigil.over(life_sign(node, lease)):
            log.warning(
                "node %s was that of another machine (machine ID %s), which is silent: taken over",
                name, info.get("machineID"),
            )  # fmt: skip
            self._vigil.reset()
            return
        if self._vigil.moved:
            raise NotRegistered(
                f"node name {name} belongs to another machine that is alive (machine ID "
                f"{info.get('machineID')}): give one of them another --hostname-override"
            )
        raise NotRegistered(
            f"node name {name} belongs to another machine (machine ID {info.get('machineID')}): "
            "it is taken over if that stays silent"
        )
